"""Run jobs, on this machine or on a Dask cluster, in child processes."""

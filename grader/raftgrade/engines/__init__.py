"""Running jobs: on this machine or on a Dask cluster, and the child processes that do the work."""

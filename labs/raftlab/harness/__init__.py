"""The harness that suites are written against: the cluster, the judge's event loop, the lab network and the trace."""

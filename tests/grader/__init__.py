"""The grader's own tests. No submission runs here: small scripts stand in for jobs and checks."""

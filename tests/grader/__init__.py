"""The grader's own tests. Most of them run no submission: small scripts take the place of jobs and checks."""

"""The grader's own tests. No submission runs here: jobs and checks are small scripts that play their part."""

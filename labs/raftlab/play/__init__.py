"""Playing with a cluster of the student's own servers in the browser: the session, its server and its page."""

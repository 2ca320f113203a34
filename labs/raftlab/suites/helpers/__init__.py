"""What several suites share: scripted leaders, followers and voters, and checks with a failure sentence of their own."""

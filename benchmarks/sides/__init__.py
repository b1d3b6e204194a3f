"""The contenders' own code, a file for each library and task: none imports another's library."""

"""What is shown: figures, lists, files, the report."""

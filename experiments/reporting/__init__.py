"""Reporting: figures, tables, files and the HTML report."""

"""A run, or several compared, as one HTML page that needs nothing but itself."""

from experiments.reporting.report.page import page

__all__ = ["page"]

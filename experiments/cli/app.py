"""The ``zoo`` command itself, to which each module here adds its commands."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="zoo", add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Fit latent-variable models and variational guides, and measure how far each guide is from the posterior.")

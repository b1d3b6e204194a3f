"""The registries of models and data sets, by name, and what their entries are."""

from __future__ import annotations

from zoo.registry.entries import GREY_KINDS, KINDS, DataEntry, Facts, ModelEntry, Registry, lazy, load, lookup
from zoo.registry.tables import DATASETS, MODELS

__all__ = [
    "DATASETS", "GREY_KINDS", "KINDS", "MODELS", "DataEntry", "Facts", "ModelEntry", "Registry", "lazy", "load", "lookup"]

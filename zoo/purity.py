"""Stub until the reader of code is merged."""
from __future__ import annotations
from dataclasses import dataclass
from typing import Any
@dataclass(frozen=True)
class Purity:
    reason: str
    def holds(self) -> bool: return True
def purity(function: Any) -> Purity: return Purity("not read")

"""log p(x | θ) in closed form, or by enumeration."""

from __future__ import annotations

import torch

from experiments.log_evidence.estimator import Estimator, Question, Unknown
from experiments.log_evidence.result import Evidence


class Exact(Estimator):
    """The closed form or enumeration that the model knows, ``model.log_evidence``."""

    def misfit(self, question: Question) -> str:
        return ""

    def run(self, question: Question) -> Evidence:
        try:
            with torch.no_grad():
                units = question.model.log_evidence(question.x)
        except NotImplementedError as error:
            raise Unknown(str(error)) from error
        total = float(units.sum())
        return Evidence("exact", total, 0.0, total, total, units)

"""The split of an encoder's gap: what its family cannot express, and what the encoder has not learned."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch

from experiments.diagnostics.gap import Gap
from experiments.fits.result import Fit
from experiments.inference.fit import fit
from experiments.log_evidence.log_weights import Z95, LogWeights
from experiments.log_evidence.result import Evidence
from guides.amortisation import Free
from guides.guide import BaseGuide, Guide
from guides.spec import parse
from zoo.data import Data
from zoo.model import Model


@dataclass(frozen=True)
class Split:
    """An encoder's gap in two parts, in nats, summed over units: KL(q ‖ posterior) = approximation + amortisation.

    Attributes:
        approximation: log p(x | θ) − ELBO of the best free member of the family, found from the encoder's answer.
        amortisation: ELBO of that member − ELBO of the encoder, from the same draws of noise.

    Source: Cremer, Li and Duvenaud (2018), Inference suboptimality in variational autoencoders,
    https://arxiv.org/abs/1801.03558
    """

    approximation: Gap
    amortisation: Gap


def free_member(guide: BaseGuide, x: Data) -> Guide:
    """Return the free guide of the encoder's family that starts at the encoder's φ for the units of ``x``."""
    assert isinstance(guide, Guide), "only a family with an amortisation has a free member"
    with torch.no_grad():
        phi = {name: value.clone() for name, value in guide.phi(x).items()}
    spec = parse(guide.written)
    own = Free(phi, x, guide.family.constants(phi))
    return Guide(guide.model, copy.deepcopy(guide.family), own, spec.free_text).eval()


def fit_free(model: Model, guide: BaseGuide, x: Data, **options: Any) -> Fit:
    """Fit the best free member of the family of ``guide`` to θ as it is, from the encoder's answer; ``options`` of ``fit``."""
    return fit(model, free_member(guide, x), x, train_model=False, name=f"best free {guide.text}", **options)


def split(encoder: LogWeights, free: LogWeights, found: Evidence) -> Split:
    """Split the encoder's gap by the best free member, from log weights on the same seed.

    Where the ascent from the encoder's answer has found nothing better, by these draws, that answer is the best member.
    """
    gain, se = _gain(encoder, free)
    best = free if gain > 0 else encoder
    ends = max(0.0, gain - Z95 * se), max(0.0, gain + Z95 * se)
    return Split(Gap.between(found, best.elbo()), Gap(max(0.0, gain), se, *ends))


def _gain(encoder: LogWeights, free: LogWeights) -> tuple[float, float]:
    """Return by how many nats the ELBO of ``free`` exceeds that of ``encoder``, and the standard error, from paired draws."""
    if free.enumerated:
        return free.elbo().value - encoder.elbo().value, 0.0
    difference = free.log_weight.sum(1) - encoder.log_weight.sum(1)
    return float(difference.mean()), float(difference.std()) / math.sqrt(len(difference))

"""EM is coordinate ascent on one function: L(q, θ) = E_q[log p(x, z | θ)] + H(q) = log p(x | θ) − KL(q ‖ p(z | x, θ)).

- E-step: over q at fixed θ. log p(x | θ) does not depend on q, so the best q is the posterior, where the KL is zero and the
  bound touches: L(q, θ) = log p(x | θ).
- M-step: over θ at fixed q. H(q) does not depend on θ, so L rises with Q(θ, θ_old) = E_q[log p(x, z | θ)]. And log p(x | θ)
  rises at least as much, since the KL that was zero can only have grown.

So log p(x | θ) never falls.

Measured on Old Faithful from a poor start: L after each half-step, by the program's density; log p(x | θ), by enumeration; and
Q + H with the mixture's complete-data formula Σ_i Σ_k r_ik [log π_k + log N(x_i | μ_k, Σ_k) − log r_ik] written out.

Source: Dempster, Laird and Rubin (1977), https://doi.org/10.1111/j.2517-6161.1977.tb01600.x; Neal and Hinton (1998), A view
of the EM algorithm that justifies incremental, sparse, and other variants, https://doi.org/10.1007/978-94-011-5014-9_12
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import experiments
import zoo
from experiments.reporting.figures import COLOURS, panels_of
from experiments.studies.study import Check, Findings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Of two full-covariance components on Old Faithful.
MAXIMUM = -1130.26


@dataclass(frozen=True)
class Found(Findings):
    """By iteration, in nats: log p(x | θ) where it starts, L after its E-step and after its M-step, the same by the
    complete-data formula, and log p(x | θ) after it."""

    before: Tensor
    after_e: Tensor
    after_m: Tensor
    formula: Tensor
    after: Tensor

    def checks(self) -> Sequence[Check]:
        rise_bound, rise = self.after_m - self.after_e, self.after - self.before
        return (
            Check.at_most("largest gap log p − L after an E-step, nats", float((self.before - self.after_e).abs().max()), 1e-8),
            Check.at_least("smallest rise of L in an M-step, nats", float(rise_bound.min()), -1e-8),
            Check.at_least("smallest (rise of log p − rise of L), nats", float((rise - rise_bound).min()), -1e-8),
            Check.at_most("largest |L − (Q + H) written out|, nats", float((self.formula - self.after_m).abs().max()), 1e-8),
            Check.near("log p(x | θ) at the end, nats", float(self.after[-1]), MAXIMUM, within=0.01),
        )

    def draw(self) -> Figure:
        figure, (stairs, gaps) = panels_of(11.0, 4.4, 2)
        shown = min(len(self.before), 16)
        for i in range(shown):
            start, middle, end = float(self.after_e[i]), float(self.after_m[i]), float(self.after[i])
            named = i == 0
            stairs.plot([i, i + 0.5, i + 0.5, i + 1], [start, start, middle, middle], color=COLOURS[0], linewidth=1.8,
                        label="M-step: L(q, θ) rises in θ" if named else None)
            stairs.plot([i + 1, i + 1], [middle, end], color=COLOURS[1], linewidth=2.4,
                        label="E-step: L(q, θ) rises in q, to log p" if named else None)
        stairs.plot(range(shown + 1), [float(self.before[0]), *self.after[:shown].tolist()], "o", color="black", markersize=4.5,
                    label="log p(x | θ)")
        stairs.set(xlabel="iteration", ylabel="nats, summed over rows")
        stairs.set_title("M-steps lift the bound, E-steps close its gap", loc="left")
        stairs.legend(frameon=False, loc="lower right")
        steps = range(1, len(self.after) + 1)
        gaps.semilogy(steps, (self.after - self.after_m).clamp(min=1e-12), "o-", color=COLOURS[1], markersize=4,
                      label="after the M-step: KL(q_old ‖ new posterior)")
        gaps.semilogy(steps, (self.before - self.after_e).abs().clamp(min=1e-12), "s", color=COLOURS[0], markersize=4,
                      label="after the E-step (float precision)")
        gaps.set(xlabel="iteration", ylabel="gap log p(x | θ) − L (nats)", ylim=(3e-13, None))
        gaps.set_title("the gap opens and closes", loc="left")
        gaps.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 0.08))
        return figure


def run(quick: bool, seed: int) -> Found:
    """Take EM's two half-steps by turns on ``faithful``, from a poor start."""
    x = zoo.dataset("faithful").tensor
    model: Any = zoo.build("gmm", x, seed=seed)
    with torch.no_grad():
        model.means.copy_(x.mean(0) + x.std(0) * torch.tensor([[-0.35, -0.35], [0.35, 0.35]]).to(x))
        model.weights = torch.tensor([0.5, 0.5]).to(x)
        model.scale = torch.linalg.cholesky(x.T.cov()).expand(2, -1, -1).clone()
    rows = []
    for _ in range(80 if quick else 150):
        before = evidence(model, x)
        q = experiments.e_step(model, x)
        after_e = float(experiments.elbo(model, x, q).detach())
        experiments.m_step(model, x, q)
        after_m = float(experiments.elbo(model, x, q).detach())
        rows.append([before, after_e, after_m, complete_data(model, x, q), evidence(model, x)])
        if rows[-1][-1] - before < 1e-9:
            break
    return Found(*torch.tensor(rows, dtype=torch.double).T)


def evidence(model: zoo.Model, x: Tensor) -> float:
    """Return log p(x | θ), by enumeration."""
    with torch.no_grad():
        return float(model.log_evidence(x).sum())


def complete_data(model: Any, x: Tensor, q: Any) -> float:
    """Return Q(θ) + H(q) with the mixture's own formula: no line of it is the program's."""
    r = q.probs
    with torch.no_grad():
        normals = MultivariateNormal(model.means, scale_tril=model.scale)
        complete = model.weights.log() + normals.log_prob(x[:, None])
        return float((r * (complete - r.clamp(min=1e-300).log())).sum())

"""The ELBO from some rows of a data set that is one unit: its rows share latents, and may own others.

    ELBO = E_q(u) [log p(u) − log q(u) + Σ_i E_q(z_i | u) [log p(x_i, z_i | u) − log q(z_i | u)]]

The sum over rows is estimated by N / B times that over B of the N rows, and no more than that: the estimate is unbiased.

Source: Hoffman et al. (2013), Stochastic variational inference, https://jmlr.org/papers/v14/hoffman13a.html
"""

from __future__ import annotations

from torch import Tensor

from experiments.inference.svi.objectives import Estimation, Step, drawn_with_score
from experiments.inference.svi.options import SVIOptions
from guides.blocks import BlockGuide
from guides.guide import BaseGuide
from zoo.data import Data
from zoo.distributions.enumerated import Enumerated
from zoo.errors import ZooError
from zoo.model import Model
from zoo.structure.blocks import blocks, log_block_terms
from zoo.structure.blockwise import Blockwise
from zoo.structure.rows import why_not_by_rows

#: Rows of one unit beyond which svi takes minibatches of as many where nobody says.
MANY = 1024


def rows_served(model: Model, guide: BaseGuide, x: Data, options: SVIOptions) -> int:
    """Return how many rows minibatches are drawn from; 0 where all rows are taken at once.

    Raises:
        ZooError: ``batch_size`` was asked for, but the program, the guide or another option does not allow it.
    """
    asked, found = options.batch_size, None if model.latents(x).discrete else blocks(model, x)
    rows = 0 if found is None else found.rows
    if asked is None and rows <= MANY:
        return 0
    reason = _misfit(model, guide, x, options)
    if not reason:
        return rows
    if asked is None:
        return 0
    raise ZooError(f"expected no batch_size for '{guide.text}' on {model.label}; got {asked}: {reason}; leave it out")


def _misfit(model: Model, guide: BaseGuide, x: Data, options: SVIOptions) -> str:
    """Return why minibatches of rows can't be taken; empty where they can."""
    found = None if model.latents(x).discrete else blocks(model, x)
    if found is not None and found.local.shape[1] and not isinstance(guide, BlockGuide):
        return "its rows own latents, of which it is one joint distribution with the others: use a guide shared+local"
    if not guide.minibatches:
        return "the guide serves all rows alone"
    for name, plain in (("objective", "elbo"), ("estimator", "reparameterised"), ("warm_up", 0)):
        if getattr(options, name) != plain:
            return f"minibatches of rows go with {name} {plain} alone"
    return why_not_by_rows(model, x)


def rows_bound(model: Model, guide: BaseGuide, batch: Data, index: Tensor, rows: int, how: Estimation) -> Step:
    """Return an unbiased estimate of the ELBO from the rows ``index`` of ``rows``, whose data are ``batch``.

    The step's reconstruction is the rows' part of the ELBO.

    Raises:
        ZooError: a guide without reparameterised draws.
    """
    q = guide.posterior(batch, index) if isinstance(guide, BlockGuide) else guide.posterior(batch)
    if isinstance(q, Enumerated) or not q.has_rsample:
        raise ZooError(f"expected a guide with reparameterised draws for method svi; got '{guide.text}'; use another guide")
    scale = rows / len(index)
    if isinstance(q, Blockwise):
        drawn = q.draw(how.draws)
        z, log_q, own = q.blocks.join(drawn.shared, drawn.local), drawn.log_shared, drawn.log_local.sum(1)
    else:
        z, scores = drawn_with_score(q, how.draws)
        log_q, own = scores[:, 0], scores.new_zeros(len(scores))
    prior, local = log_block_terms(model, batch, z)
    reconstruction = scale * (local.sum(1) - own).mean()
    value = (prior - log_q).mean() + reconstruction
    return Step(value, -value, z, reconstruction.detach())

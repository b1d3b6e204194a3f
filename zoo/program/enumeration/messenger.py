"""The handler that runs a program at all values of its discrete latents at once."""

from __future__ import annotations

from typing import Any

import torch
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.util import site_is_subsample

from zoo.errors import ZooError
from zoo.program.sites.latents import Scheme, is_awaited, is_deterministic, is_discrete


class Enumerate(EnumMessenger):
    """Enumerate every discrete latent, each along a tensor dimension of its own to the left of the plates.

    Pyro's own handler asks for ``infer={"enumerate": "parallel"}``, and looks at a tensor's shape in a way that ``vmap``
    refuses. Chains in ``pyro.markov`` use dimensions again, as there.
    """

    def __init__(self, scheme: Scheme):
        super().__init__(first_available_dim=-1 - scheme.depth)
        self.scheme = scheme

    def _pyro_sample(self, msg: Any) -> None:
        latent = not (msg["is_observed"] or site_is_subsample(msg) or is_deterministic(msg) or msg["value"] is not None)
        if latent and not is_awaited(msg, self.scheme.observed) and is_discrete(msg):
            msg["infer"] = {**msg["infer"], "enumerate": "parallel", "expand": False}
            msg["infer"].pop("num_samples", None)
        super()._pyro_sample(msg)

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["value"] is not None:
            # Pyro reads the shape of the value's data, which vmap does not let it have.
            alike: Any = {**msg, "value": torch.empty(msg["value"].shape, device="meta")}
            super()._pyro_post_sample(alike)


def check_enumerable(site: Any) -> None:
    """Raise a :class:`ZooError` unless the values of a discrete latent can be listed, its elements each for itself."""
    fn, name = site["fn"], site["name"]
    base = fn
    while hasattr(base, "base_dist"):
        base = base.base_dist
    if not base.has_enumerate_support:
        raise ZooError(
            f"expected discrete latents of finite support; got site '{name}' of {type(base).__name__}, which has no upper "
            "bound; bound it, e.g. by a Categorical whose logits are its log-probabilities of 0 to 99, or marginalise it")
    try:
        fn.enumerate_support(expand=False)
    except NotImplementedError as error:
        raise ZooError(
            f"expected discrete latents whose values can be listed; got site '{name}' of {type(fn).__name__}: "
            f"{(str(error).splitlines() or ['no list'])[0]}; put its elements in a plate instead of .to_event, with one "
            "total_count") from error
    frames = {frame.dim: frame.size for frame in site["cond_indep_stack"] if frame.vectorized}
    bare = [dim for dim in range(-len(fn.batch_shape), 0) if fn.batch_shape[dim] != frames.get(dim, 1)]
    if bare:
        raise ZooError(
            f"expected each element of discrete latents in a plate; got site '{name}' of batch shape "
            f"{tuple(fn.batch_shape)} without one along dimension {bare[-1]}; add pyro.plate")

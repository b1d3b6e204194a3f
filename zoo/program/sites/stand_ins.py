"""What a run puts in the place of what it can't draw or should not: values of improper priors, and whole plates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.distributions import ImproperUniform
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import SubsampleMessenger

from zoo.data import Data, reference
from zoo.program.sites.angles import bijection, unwrapped
from zoo.program.sites.masks import domain_shape


class Improper(Messenger):
    """Give latents of improper priors a value where a prior would be drawn from: standard normal coordinates.

    Such a draw is where a fit may start, and no more: there is no prior to draw from.

    Args:
        x: the data, whose dtype and device the values have.
    """

    def __init__(self, x: Data):
        super().__init__()
        self.like = reference(x)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["value"] is not None or not isinstance(unwrapped(msg["fn"]), ImproperUniform):
            return
        transform = bijection(msg["fn"])
        msg["value"] = transform(torch.randn(
            domain_shape(transform, msg["fn"].shape()), dtype=self.like.dtype, device=self.like.device))


def is_improper(site: Any) -> bool:
    """Return whether a latent site has no density that integrates to one: uniform without bounds, or masked as a whole."""
    return site["mask"] is False or isinstance(unwrapped(site["fn"]), ImproperUniform)


@contextmanager
def whole_plates() -> Iterator[list[str]]:
    """Let plates that subsample hold all their rows while programs run; yield the names of those that asked for fewer.

    A program that takes minibatches itself does so for its own inference. Here the engine serves the rows.
    """
    asked: list[str] = []
    init: Any = SubsampleMessenger.__init__

    def whole(
        self: Any, name: str, size: Any = None, subsample_size: Any = None, subsample: Any = None, *rest: Any, **more: Any,
    ) -> None:
        if subsample_size is not None or subsample is not None:
            asked.append(name)
        init(self, name, size, None, None, *rest, **more)

    SubsampleMessenger.__init__ = whole  # type: ignore[method-assign]
    try:
        yield asked
    finally:
        SubsampleMessenger.__init__ = init  # type: ignore[method-assign]

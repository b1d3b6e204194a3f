"""Guides of two blocks: q(u) of the latents that all rows share, and q(z_i | u) of each row's own.

Such a guide is written ``shared+local``, as ``full_rank+mean_field:encoder``: any family of continuous latents for u, and any
with any amortisation for z. With ``shared=True``, as in ``mean_field:encoder(shared=True)``, q(z_i | u) depends on u: an
encoder reads it beside the row, a free one has an affine map of it for its loc.

Source: Hoffman et al. (2013), Stochastic variational inference, https://jmlr.org/papers/v14/hoffman13a.html; Hoffman and Blei
(2015), Structured stochastic variational inference, https://arxiv.org/abs/1404.4114; Agrawal and Domke (2021), Amortized
variational inference for simple hierarchical models, https://arxiv.org/abs/2111.03144
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.distributions import Distribution

from guides.amortisation import Amortisation, Free
from guides.families.blocks import LOCAL, SHARED, BlockFamily, at_draws
from guides.families.family import Phi
from guides.guide import Guide
from zoo.data import Data
from zoo.errors import ZooError
from zoo.structure.blocks import blocks
from zoo.structure.blockwise import Blockwise

if TYPE_CHECKING:
    from zoo.model import Model
    from zoo.program.sites.blocks import Blocks


class BlockAmortisation(Amortisation):
    """The φ of both blocks: the shared latents have their own, those of rows come from an amortisation.

    Args:
        shared: holds the shared family's φ.
        local: the map from rows to the local family's φ.
        centre, spread: where u starts, (d_shared,), and its prior's scale there: φ that depends on u sees it so standardised.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, shared: Free, local: Amortisation, centre: Tensor, spread: Tensor):
        super().__init__()
        self.shared, self.local = shared, local
        self.register_buffer("centre", centre)
        self.register_buffer("spread", spread)
        self.reads, self.pure = local.reads, local.pure

    def forward(self, x: Data, units: int, index: Tensor | None = None, shared: Tensor | None = None) -> Phi:
        """Return φ as of :class:`guides.families.blocks.BlockFamily` for ``units`` rows.

        Where a network reads ``shared`` draws (draws, d_shared), here as they are, local entries are (draws, units, *shape).
        """
        found = {SHARED + name: value for name, value in self.shared(x, 1).items()}
        white = None if shared is None else (shared - self.centre) / self.spread
        local = self.local(x, units, index, white)
        for name, value in local.items():
            found[LOCAL + name] = value if self.reads else value[None]
        if "slope" in local:  # the same for all draws
            del found[LOCAL + "slope"]
            found |= {"slope": local["slope"][None], "centre": self.centre, "spread": self.spread}
        return found


class BlockGuide(Guide):
    """A guide of two blocks: q(u, z | x; φ) = q(u; φ) Π_i q(z_i | x_i [, u]; φ).

    Args:
        model: the model.
        family: the families of both blocks.
        amortisation: the φ of both blocks.
        text: how the guide is written.

    Use :func:`guides.build` to make one from its written form.

    >>> import zoo, guides
    >>> x = zoo.dataset("eight_schools").x
    >>> guide = guides.build("full_rank+mean_field:encoder(shared=True)", zoo.build("eight_schools", x), x)
    >>> guide.posterior(x).event_shape
    torch.Size([10])
    """

    family: BlockFamily
    amortisation: BlockAmortisation

    def __init__(self, model: Model, family: BlockFamily, amortisation: BlockAmortisation, text: str):
        super().__init__(model, family, amortisation, text)
        # The families' own networks, as of flows, are φ, too.
        self.parts = nn.ModuleList(part for part in (family.shared, family.local) if isinstance(part, nn.Module))

    @property
    def own_phi(self) -> bool:
        return isinstance(self.amortisation.local, Free)

    def blocks(self, x: Data) -> Blocks:
        """Return where shared and local latents lie.

        Raises:
            ZooError: the model has no such blocks on ``x``.
        """
        found, size = blocks(self.model, x), len(self.amortisation.centre)
        if found is None or not found.both or len(found.shared) != size:
            got = "others" if found is None or not found.both else f"{len(found.shared)} shared ones"
            raise ZooError(
                f"expected data whose rows share {size} coordinates and have their own in {self.model.label}, as '{self.text}' "
                f"was built for; got {got}; build a guide on this x")
        return found

    def phi(self, x: Data, index: Tensor | None = None) -> Phi:
        """Return φ of both blocks, see :class:`guides.families.blocks.BlockFamily`; not where a network reads u."""
        found: Phi = self.amortisation(x, self.blocks(x).rows, index)
        return found

    def posterior(self, x: Data, index: Tensor | None = None) -> Blockwise:
        if not self.amortisation.reads:
            return self.family.distribution(self.phi(x, index))

        def at(u: Tensor) -> Distribution:
            return self.family.local.distribution(self.local_phi(x, u, index))

        shared = self.family.shared.distribution(self.amortisation.shared(x, 1))
        return Blockwise(self.blocks(x), shared, at, depends=True)

    def local_phi(self, x: Data, u: Tensor, index: Tensor | None = None) -> Phi:
        """Return the local family's φ where a network reads draws u (draws, d_shared): (draws · rows, *shape), draws first."""
        return at_draws(self.amortisation(x, self.blocks(x).rows, index, u), u)

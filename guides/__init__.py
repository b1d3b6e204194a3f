"""Variational guides q(z | x; φ): a family of distributions, and how each unit comes by its φ.

- ``build`` makes a guide from how it is written, as ``mean_field:encoder``; ``as_guide`` wraps any Pyro guide; ``parse`` reads
  the text into a ``GuideSpec``. ``all_guides``, ``fitting_guides`` and ``default_guides`` list what there is for a model.
- ``FAMILIES`` are classes of ``Family``, of ``NormalBase`` where noise can be held, of ``Normal`` where natural gradients
  climb; ``Start`` is where their φ begins.
- ``AMORTISATIONS`` are classes of ``Amortisation``: ``Free``, ``Encoder`` and ``Semi``.
- ``WHOLE`` guides have neither: ``Exact`` and ``Prior``. ``Guide``, ``ProgramGuide`` and these are each a ``BaseGuide``.
- ``DRAWN`` guides are known by draws alone: ``Drawn``, which a method that samples fills.
- ``BlockGuide`` is a ``Guide`` of two blocks, ``shared+local``, where rows share latents and own others.

Names load when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guides.registry import AMORTISATIONS, DRAWN, FAMILIES, WHOLE
from guides.spec import GuideSpec, all_guides, default_guides, fitting_guides, parse
from zoo.registry import lazy

if TYPE_CHECKING:
    from guides.amortisation import Amortisation, Encoder, Free, Semi
    from guides.blocks import BlockGuide
    from guides.construct import build
    from guides.drawn import Drawn
    from guides.families.family import Family, Normal, NormalBase, Start
    from guides.guide import BaseGuide, Guide
    from guides.model_based import Exact, Prior
    from guides.pyro_guide.guide import ProgramGuide, as_guide

_LAZY = {
    "Amortisation": "guides.amortisation:Amortisation",
    "BaseGuide": "guides.guide:BaseGuide",
    "BlockGuide": "guides.blocks:BlockGuide",
    "Drawn": "guides.drawn:Drawn",
    "Encoder": "guides.amortisation:Encoder",
    "Exact": "guides.model_based:Exact",
    "Family": "guides.families.family:Family",
    "Free": "guides.amortisation:Free",
    "Guide": "guides.guide:Guide",
    "Normal": "guides.families.family:Normal",
    "NormalBase": "guides.families.family:NormalBase",
    "Prior": "guides.model_based:Prior",
    "ProgramGuide": "guides.pyro_guide.guide:ProgramGuide",
    "Semi": "guides.amortisation:Semi",
    "Start": "guides.families.family:Start",
    "as_guide": "guides.pyro_guide.guide:as_guide",
    "build": "guides.construct:build",
}

__all__ = [
    "AMORTISATIONS", "DRAWN", "FAMILIES", "WHOLE", "Amortisation", "BaseGuide", "BlockGuide", "Drawn", "Encoder", "Exact",
    "Family", "Free", "Guide", "GuideSpec", "Normal", "NormalBase", "Prior", "ProgramGuide", "Semi", "Start", "all_guides",
    "as_guide", "build", "default_guides", "fitting_guides", "parse",
]


__getattr__ = lazy(__name__, _LAZY)


def __dir__() -> list[str]:
    return sorted(__all__)

"""The runner of a model's program: draws by vmap where it can be, apart from Pyro's global store, the layout known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from pyro.nn import PyroModule
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from zoo.data import FEW, Data, Identity, reference, subsample_rows
from zoo.program.params import LocalParams
from zoo.program.run import isolated, precision, seeded, unregistered
from zoo.program.sites.blocks import rows_of
from zoo.program.sites.latents import Latents, Scheme
from zoo.program.sites.layout import layout
from zoo.program.sites.stand_ins import whole_plates
from zoo.program.vectorise import OverDraws


class Hooked(PyroModule):
    """A module that knows whether forward hooks were ever registered on it: calls of ``forward`` alone would skip these."""

    hooked: bool = False

    def register_forward_hook(self, *args: Any, **kwargs: Any) -> RemovableHandle:
        self.hooked = True
        return super().register_forward_hook(*args, **kwargs)

    def register_forward_pre_hook(self, *args: Any, **kwargs: Any) -> RemovableHandle:
        self.hooked = True
        return super().register_forward_pre_hook(*args, **kwargs)


class Runner:
    """Runs one model's program, and remembers what its runs have told: its layout on the data, and whether vmap can run it.

    Args:
        model: a PyroModule whose ``forward(x)`` is the program, with a ``label``.

    Attributes:
        observed: the names of sites that were observed in earlier data.
        draws: the map of the program over draws, by vmap or one by one.
        kept: results on the program from other modules, by the name of the finder. Copies of the runner start with none, since
            the results may hold on to the data.
    """

    def __init__(self, model: Any):
        self.model = model
        self.observed: frozenset[str] = frozenset()
        self.draws = OverDraws(model)
        self.kept: dict[str, Any] = {}
        self._last: tuple[Any, Latents] | None = None
        self._part: tuple[Any, Latents] | None = None
        self._parts: dict[int, Latents | None] = {}  # of the data last asked about, by how many rows are taken
        self._plain: bool | None = None
        self._alone = False
        self._subsamples = False
        self._wide = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "kept": {}, "_last": None, "_part": None, "_parts": {}}

    def latents(self, x: Data) -> Latents:
        """Return the layout of the program's latents on ``x``; see :meth:`zoo.Model.latents`."""
        key = Identity.of(x)
        for known in (self._last, self._part):
            if known is not None and known[0] == key:
                return known[1]
        self._wide = reference(x).dtype == torch.float64  # as then constants of the program are to be, too
        with seeded(0), self.isolated(), whole_plates() as asked:
            few = subsample_rows(x, FEW)
            if few is not x and bool(reference(x).isnan().any()):
                few = x  # which row has a number missing, all of them must be asked
            found = layout(self.model, few, self.model.label, self.observed)
            grown = found if few is x else found.grown(len(reference(x)), len(reference(few)))
            found = layout(self.model, x, self.model.label, self.observed) if grown is None else grown
        self._subsamples = bool(asked)
        self.observed |= {site.name for site in found.observed}
        self._last, self._part, self._parts, self._plain = (key, found), None, {}, None
        return found

    def adopt(self, part: Data, units: int) -> None:
        """Take it that ``part`` is ``units`` rows of the data last asked about: its :meth:`latents` are then known.

        A minibatch is new data each time, and its layout would else be found by running the program each time.
        """
        if self._last is not None:
            if units not in self._parts:
                whole = self._last[1]
                self._parts[units] = whole.grown(units, whole.units) if whole.unit else rows_of(whole, units)
            found = self._parts[units]
            self._part = None if found is None else (Identity.of(part), found)

    def scheme(self, x: Data, drawing: bool = False) -> Scheme:
        """Return how the program's sites are read. It hangs on the program, not on the rows: minibatches need no new run.

        ``drawing``: what is observed in other data, and not in these, may be drawn; a density needs it.
        """
        found = self._last[1] if self._last is not None else self.latents(x)
        return Scheme(found.unit, self.observed if drawing else frozenset(), bool(found.summed), found.depth)

    def empty(self, x: Data) -> Tensor:
        """Return the units' vectors where there are no latents, (units, 0)."""
        return reference(x).new_zeros(self.latents(x).units, 0)

    @property
    def program(self) -> Callable[[Data], Any]:
        """The program as it is run: ``forward`` itself where that is the same as calling the module.

        A call makes each use of a parameter or a network a statement that goes through Pyro's handlers, a third of the time
        that a run of a small program takes. Only ``PyroSample`` attributes and hooks need it.
        """
        if self._plain is None:
            modules = [m for m in self.model.modules() if isinstance(m, PyroModule)]
            self._plain = not any(m._pyro_samples for m in modules)
            self._alone = len(modules) == 1
        program: Callable[[Data], Any] = self.model.forward if self._plain and not self.model.hooked else self.model
        return program

    @contextmanager
    def isolated(self, called: bool = True) -> Iterator[None]:
        """Keep Pyro's store out of runs. Where a PyroModule is ``called``, Pyro sees parameters, and warns of fixed ones."""
        fixed = called and self.model.training and any(not p.requires_grad for p in self.model.parameters())
        whole = whole_plates() if self._subsamples else nullcontext()
        wide = precision(torch.float64) if self._wide else nullcontext()
        with isolated(LocalParams(self.model)), unregistered() if fixed else nullcontext(), whole, wide:
            yield

    def over_draws(self, one: Callable[[Any], Any], rows: Any, drawing: bool = False) -> Any:
        """Map ``one`` over the first dimension of ``rows``, apart from Pyro's store; see :class:`OverDraws`."""
        with self.isolated(self.program is self.model or not self._alone):
            return self.draws(one, rows, drawing)

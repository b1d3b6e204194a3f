"""What a program is: its sites, who owns them, what is summed out, what depends on what; as text and as a drawing."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions import Unit

from zoo.data import FEW, Data, reference, subsample_rows
from zoo.program.run import seeded
from zoo.program.sites.blocks import Blocks
from zoo.program.sites.latents import Latents
from zoo.registry import MODELS
from zoo.structure.graph.dependencies import Trace, TracedSite, is_computed, trace
from zoo.structure.graph.nodes import DescribedSite, Node, fold, network
from zoo.structure.graph.parameters import Parameter, parameters
from zoo.structure.graph.supports import distribution_name
from zoo.structure.graph.svg import svg
from zoo.structure.graph.text import columns, drawing

if TYPE_CHECKING:
    from zoo.model import Model

HEADS = ("site", "kind", "support", "shape", "plates", "block")
#: Draws of the prior by which it is seen that every run has the same latent sites.
DRAWS = 8


@dataclass(frozen=True, repr=False)
class Description:
    """What a program is on given data. Printed, it is a table and a drawing; in a notebook, the drawing is SVG.

    Attributes:
        label: the model's name.
        summary: what it is, in a line; empty where it does not say.
        sites: the sites, in the program's order, and what each depends on.
        parameters: the learned parameters θ.
        plates: how many rows each plate has, by name.
        unit: the plate whose rows are the units; ``None`` where the data set is one unit.
        units: how many units.
        shared, local: how many unconstrained coordinates all units share, and how many each unit has.
        remarks: what else is to be known, a line each.

    >>> import zoo
    >>> x = zoo.dataset("eight_schools").x
    >>> print(zoo.describe(zoo.build("eight_schools", x), x))
    eight_schools: hierarchical normal model
    <BLANKLINE>
    site   kind      support   shape  plates  block
    mu     latent    real      ()             shared
    tau    latent    positive  ()             shared
    eta    latent    real      (8,)   school  local
    theta  computed            (8,)   school
    y      observed  real      (8,)   school
    <BLANKLINE>
    unit plate: school, 8 units; 2 shared coordinates, 1 local coordinate a unit
    <BLANKLINE>
    ○ mu   Normal
    ○ tau  HalfCauchy
    ┌ school × 8 ─────────────┐
    │ ○ eta    Normal         │
    │ □ theta  ← mu, tau, eta │
    │ ● y      Normal ← theta │
    └─────────────────────────┘
    <BLANKLINE>
    ○ latent  □ computed  ● observed  ← depends on
    """

    label: str
    summary: str
    sites: tuple[DescribedSite, ...]
    parameters: tuple[DescribedSite, ...]
    plates: Mapping[str, int]
    unit: str | None
    units: int
    shared: int
    local: int
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Model, x: Data) -> Description:
        """Describe a model on data; see :func:`zoo.describe`."""
        found = model.latents(x)
        few = _few(model, x, found)
        if not model.pure or model.purity():
            with seeded(0):
                model.sample_prior(few, DRAWS)  # raises where other runs have other sites
        theta = parameters(model, model.theta())
        traced = trace(model, few, {one.name: one.tensor for one in theta})
        blocks = Blocks.of(found)
        unit, units = (blocks.plate, blocks.rows) if blocks else (found.unit, found.units)
        shared, local = (len(blocks.shared), blocks.local.shape[1]) if blocks else (
            (found.size, 0) if unit is None else (0, found.size))
        names = _names(theta, traced)
        sites = tuple(_described(site, found, unit, names) for site in traced.sites)
        return cls(
            model.label, _summary(model), sites,
            tuple(DescribedSite(names[one.name], "parameter", "", one.support, one.shape) for one in theta),
            _plates(traced.sites, found), unit, units, shared, local, tuple(_remarks(fold(sites), traced, found)))

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """The parameters and sites as they are shown, those that repeat folded into one."""
        return fold((*self.parameters, *self.sites))

    @property
    def title(self) -> str:
        """The name and the summary, in a line."""
        return f"{self.label}: {self.summary}" if self.summary else self.label

    def table(self) -> str:
        """Return the table of sites and parameters as text."""
        return columns(HEADS, self._rows())

    def notes(self) -> tuple[str, ...]:
        """Return the lines below the table: the units, the coordinates, and the remarks."""
        coordinates = [_counted(self.shared, "shared coordinate")] if self.shared or not self.local else []
        coordinates += [f"{_counted(self.local, 'local coordinate')} a unit"] if self.local else []
        head = f"unit plate: {self.unit}, {_counted(self.units, 'unit')}" if self.unit else "one unit: the whole data set"
        return (f"{head}; {', '.join(coordinates)}", *self.remarks)

    def drawing(self) -> str:
        """Return the graphical model as text: plates are boxes, and ← names what a site depends on."""
        return drawing(self.nodes, self.plates)

    def svg(self) -> str:
        """Return the graphical model as an SVG image: plates are boxes, observed sites are shaded."""
        return svg(self.nodes, self.plates, self.title)

    def __str__(self) -> str:
        return "\n\n".join([self.title, self.table(), "\n".join(self.notes()), self.drawing()])

    __repr__ = __str__

    def _repr_svg_(self) -> str:
        return self.svg()

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in self._rows())
        heads = "".join(f"<th>{head}</th>" for head in HEADS)
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes())
        return f"<b>{escape(self.title)}</b><table><tr>{heads}</tr>{rows}</table>{notes}{self.svg()}"

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (f"{node.label} ({len(node.sites)} {'sites' if node.kind != 'parameter' else 'tensors'})"
             if len(node.sites) > 1 else node.label, node.kind, node.support, node.shape, ", ".join(node.first.plates),
             node.first.block) for node in self.nodes]


def _few(model: Model, x: Data, found: Latents) -> Data:
    """Return ``x``, or of very many units only some, which stand for all."""
    few = subsample_rows(x, FEW)
    if few is x or found.unit is None or found.units != len(reference(x)):
        return x
    model.runner.adopt(few, len(reference(few)))
    return few


def _names(theta: Sequence[Parameter], traced: Trace) -> dict[str, str]:
    """Return how each parameter and site is called, in their order: a parameter is marked where a site has its name."""
    sites = {site.name: site.name for site in traced.sites}
    found = {}
    for one in theta:
        name = one.name.removeprefix("module.")
        head = network(name)
        found[one.name] = f"{head} (θ){name.removeprefix(head)}" if head in sites else name
    return {**sites, **found}


def _described(site: TracedSite, found: Latents, unit: str | None, names: Mapping[str, str]) -> DescribedSite:
    kind = _kind(site, found)
    plates = tuple(frame.name for frame in site.message["cond_indep_stack"])
    latent = kind in ("latent", "enumerated", "summed out")
    block = "" if not latent else "local" if unit is not None and unit in plates else "shared"
    parents = tuple(shown for name, shown in names.items() if name in site.parents)
    distribution = "" if kind in ("computed", "factor") else distribution_name(site.message["fn"])
    return DescribedSite(site.name, kind, distribution, site.support, _shape(site, found), plates, block, parents, site.line)


def _kind(site: TracedSite, found: Latents) -> str:
    kinds = {
        **{one.name: "summed out" for one in found.summed},
        **{one.name: "latent" if one.values is None else "enumerated" for one in found.sites},
    }
    if is_computed(site.message):
        return "computed"
    if isinstance(site.message["fn"], Unit):
        return "factor"
    return kinds.get(site.name, "observed" if site.message["is_observed"] else "predicted")


def _shape(site: TracedSite, found: Latents) -> tuple[int, ...]:
    """Return the shape of a site's value on all of the data, of which some may have stood for all."""
    known = {one.name: one.shape for one in (*found.sites, *found.summed, *found.observed)}
    value = site.message["value"]
    shape = list(known.get(site.name, value.shape if isinstance(value, torch.Tensor) else ()))
    if isinstance(site.message["fn"], Unit):
        return tuple(shape[:-1])  # a factor's value is empty
    frame = next((f for f in site.message["cond_indep_stack"] if f.vectorized and f.name == found.unit), None)
    if frame is not None:
        place = frame.dim - site.message["fn"].event_dim
        if -place <= len(shape) and shape[place] == frame.size:
            shape[place] = found.units
    return tuple(shape)


def _plates(sites: Sequence[TracedSite], found: Latents) -> dict[str, int]:
    """Return how many rows each plate has; a sequential one as many as were seen."""
    plates: dict[str, int] = {}
    for frame in (frame for site in sites for frame in site.message["cond_indep_stack"]):
        size = found.units if frame.name == found.unit else int(frame.size)
        plates[frame.name] = max(size, plates.get(frame.name, 0))
    return plates


def _remarks(nodes: Sequence[Node], traced: Trace, found: Latents) -> list[str]:
    said = []
    values = {one.name: len(one.values) for one in (*found.sites, *found.summed) if one.values is not None}
    for kind in ("enumerated", "summed out"):
        each = [f"{node.label} ({values[node.first.name]} values)" for node in nodes if node.kind == kind]
        said += [f"{kind}: {', '.join(each)}"] if each else []
    if found.discrete:
        said[-1] += f"; {len(found.support())} joint values a unit"
    if found.improper:
        said.append(f"improper prior: {', '.join(found.improper)}")
    if found.awaited:
        said.append(f"no observations of {', '.join(node.label for node in nodes if node.kind == 'predicted')}")
    if traced.read:
        said.append(f"Python reads the numbers of {', '.join(sorted(traced.read))}: all later sites count as dependent on them")
    return said


def _summary(model: Model) -> str:
    """Return the registered summary of a model, or the first line of what a program says of itself."""
    entry = MODELS.get(model.label)
    if entry is not None and entry.path == f"{type(model).__module__}:{type(model).__name__}":
        return entry.summary
    program: Any = getattr(model, "program", model)
    text = getattr(program, "__doc__", None) if inspect.isroutine(program) else vars(type(program)).get("__doc__")
    return inspect.cleandoc(text).splitlines()[0].rstrip(".") if text and text.strip() else ""


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"

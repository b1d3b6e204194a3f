"""Shapes of the files of a run that pages are made from: what is relied on of a file that somebody may have altered."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from experiments.log_evidence.registry import ESTIMATORS


class Shape(BaseModel):
    """A JSON object with some keys; other keys are let be."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class Number(Shape):
    """An estimate and its standard error; null where it is infinite or not known."""

    value: float | None
    se: float | None


class Gap(Number):
    """A gap and its interval."""

    lower: float | None
    upper: float | None


def known_kind(name: str) -> str:
    """Return the name of a registered kind of evidence; raise a ``ValueError`` for another."""
    if name not in ESTIMATORS:
        raise ValueError(f"expected one of {', '.join(ESTIMATORS)}")
    return name


class Evidence(Gap):
    """log p(x | θ), its interval and its kind."""

    kind: Annotated[str, AfterValidator(known_kind)]
    guide: str | None = None
    method: str | None = None
    remark: str = ""


class Fitted(Shape):
    """A fit."""

    method: str
    guide: str
    steps: int
    seconds: float
    converged: bool
    stopped: str


class Row(Fitted):
    """A guide's row of a comparison."""

    elbo: Number
    kl_gap: Gap
    approximation_gap: Gap | None
    amortisation_gap: Gap | None
    reconstruction: Number
    kl_prior: Number
    active: int | None
    khat: float | None
    ess: float | None
    draws: int
    parameters: int
    density: bool = True
    log_evidence: Evidence
    remark: str = ""


class Parameter(Shape):
    """A quantity of θ: its values, where it has some, are nested as its shape says."""

    name: str
    dims: list[str]
    shape: list[Annotated[int, Field(ge=0)]]
    values: Any

    @model_validator(mode="after")
    def _agrees(self) -> Parameter:
        if len(self.dims) != len(self.shape) or not (self.values is None or is_nested(self.values, self.shape)):
            raise ValueError(f"expected {self.name} with a dimension for each size, and as many numbers")
        return self


class NetworkShape(Shape):
    """A network of θ: how many numbers it has, and its layers."""

    name: str
    size: int
    layers: list[str]


class Theta(Shape):
    """What was learned; of runs of earlier versions nothing is known."""

    parameters: list[Parameter] = []
    networks: list[NetworkShape] = []
    labels: dict[str, list[str]] = {}

    @model_validator(mode="after")
    def _labelled(self) -> Theta:
        for one in self.parameters:
            for dim, size in zip(one.dims, one.shape, strict=True):
                if len(self.labels.get(dim, range(size))) != size:
                    raise ValueError(f"expected {size} labels of {dim}")
        return self


class FittedTheta(Fitted, Theta):
    """What was learned, and its fit."""


class Worst(Shape):
    """A quantity that a guide has wrong, beside the reference."""

    guide: str
    quantity: str
    mean: float | None
    sd: float | None
    reference_mean: float | None
    reference_sd: float | None
    error: float | None
    error_se: float | None
    sd_ratio: float | None
    sd_ratio_se: float | None


class Quantities(Shape):
    """The worst quantities of a comparison, and what they are compared with."""

    reference: str
    rough: str = ""
    told: list[str]
    worst: list[Worst]


class CostShape(Shape):
    """The cost of a comparison, in evaluations."""

    effort: str
    fit_evaluations: int
    evaluation_evaluations: int


def is_nested(values: Any, shape: list[int]) -> bool:
    """Return whether ``values`` are lists of numbers, nested as ``shape`` says."""
    if not shape:
        return values is None or (isinstance(values, int | float) and not isinstance(values, bool))
    return isinstance(values, list) and len(values) == shape[0] and all(is_nested(part, shape[1:]) for part in values)


class TableShape(Shape):
    """A comparison's table, as comparison.json has it; nats are totals over units."""

    model: str
    data: str
    units: int = Field(ge=1)
    units_in_all: int
    holdout: float
    seed: int
    log_evidence: Evidence | None
    own_theta: bool
    simulated: bool
    theta: FittedTheta | None
    theta_by_guide: dict[str, Theta] | None = None
    quantities: Quantities | None = None
    cost: CostShape | None = None
    guides: list[Row] = Field(min_length=1)


class Uncertain(Shape):
    """A unit of uncertain discrete latents: its entropy in nats, and the probability of each value."""

    unit: str
    entropy: float | None
    probabilities: list[float | None]


class Spread(Shape):
    """A unit of large standard deviation."""

    unit: str
    sd: float | None


class Means(Shape):
    """Quantiles over units of their posterior means."""

    least: float | None
    median: float | None
    greatest: float | None
    low: float | None = Field(alias="5%")
    high: float | None = Field(alias="95%")


class Units(Shape):
    """One variable, summarised over units: by ``counts`` where it is discrete, by ``means`` where it is real."""

    variable: str
    dim: str
    units: int = Field(ge=1)
    counts: dict[str, float | None] | None = None
    mean_entropy: float | None = None
    greatest_entropy: float = 0.0
    most_uncertain: list[Uncertain] = []
    means: Means | None = None
    mean_sd: float | None = None
    largest_sd: list[Spread] = []
    coordinates_left: int = 0

    @model_validator(mode="after")
    def _either(self) -> Units:
        needed = {"mean_entropy", "greatest_entropy", "most_uncertain"} if self.counts is not None else {
            "means", "mean_sd", "largest_sd", "coordinates_left"}
        if not needed <= self.model_fields_set or (self.counts is None) == (self.means is None):
            raise ValueError(f"expected {self.variable} with counts or means")
        return self


class UnitsShape(Shape):
    """The variables of units.json."""

    units: list[Units]

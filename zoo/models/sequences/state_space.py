"""Linear-Gaussian state-space models of one series, with their paths as latents."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from zoo.data import Data, check_magnitude, check_mapping
from zoo.errors import ZooError
from zoo.model import Model

#: The slope's standard deviations in those of the series, at one step.
GENTLE = 0.1


class StateSpace(Model):
    """Structural time series: a local level seen with noise, and with ``trend`` a slope that changes, too.

    level_1 ~ N(m, s²), level_t = level_{t−1} + slope_{t−1} + σ_level ε_t, slope_1 ~ N(0, (s/10)²), slope_t = slope_{t−1} +
    σ_slope η_t, y_t ~ N(level_t, σ²), with ε, η ~ N(0, 1), σ, σ_level ~ HalfNormal(s), σ_slope ~ HalfNormal(s / 10), m and s
    the series' mean and standard deviation. Without ``trend`` all slopes are 0: a random walk plus noise.

    Non-centred: the latents are the standardised ``steps`` ε (and ``bends`` η); the path is the deterministic site ``level``
    (and ``slope``). All times share them: the data set is one unit. Given the scales p(y) is normal, as the Kalman filter
    has it; their posterior is not.

    Args:
        x: ``{"y": (times,)}``, 3 times or more, evenly spaced, not constant. Scales the priors.
        trend: let the level have a slope.

    Raises:
        ZooError: y is missing, of another shape, not finite, too short or constant.

    Source: Harvey (1989), Forecasting, structural time series models and the Kalman filter, §2.3, Cambridge University Press;
    Durbin and Koopman (2012), Time series analysis by state space methods, ch. 2–3,
    https://doi.org/10.1093/acprof:oso/9780199641178.001.0001

    >>> import torch
    >>> x = {"y": torch.tensor([1.0, 1.5, 0.5, 2.0])}
    >>> StateSpace(x).latents(x).coordinates()
    ['noise_scale', 'level_scale', 'first_level', 'steps[0]', 'steps[1]', 'steps[2]']
    """

    pure = True
    dims = {"steps": ("step",), "bends": ("step",)}
    centre: Tensor
    spread: Tensor

    def __init__(self, x: Data, trend: bool = False):
        super().__init__()
        y = check_series(x, self.label)
        self.trend = trend
        self.register_buffer("centre", y.mean())
        self.register_buffer("spread", y.std())

    def forward(self, x: dict[str, Tensor]) -> None:
        y, spread = x["y"], self.spread
        zero = spread.new_zeros(())
        normal = dist.Normal(zero, 1.0).expand([len(y) - 1]).to_event(1)
        noise_scale = pyro.sample("noise_scale", dist.HalfNormal(spread))
        level_scale = pyro.sample("level_scale", dist.HalfNormal(spread))
        first = pyro.sample("first_level", dist.Normal(self.centre, spread))
        moves = level_scale * pyro.sample("steps", normal)
        slope = y.new_zeros(len(y))
        if self.trend:
            slope_scale = pyro.sample("slope_scale", dist.HalfNormal(GENTLE * spread))
            first_slope = pyro.sample("first_slope", dist.Normal(zero, GENTLE * spread))
            slope = path(first_slope, slope_scale * pyro.sample("bends", normal))
            moves = moves + slope[:-1]
        level = path(first, moves)
        with pyro.plate("time", len(y)):
            pyro.deterministic("level", level)
            if self.trend:
                pyro.deterministic("slope", slope)
            pyro.sample("y", dist.Normal(level, noise_scale), obs=y)

    def start(self, x: Data) -> dict[str, Tensor]:
        """Return a level that is smooth: scales of a half and a tenth of the series' own, and no steps."""
        y = check_series(x, self.label)
        none = y.new_zeros(len(y) - 1)
        found = {"noise_scale": 0.5 * self.spread, "level_scale": GENTLE * self.spread, "first_level": self.centre}
        slope = {"slope_scale": GENTLE**2 * self.spread, "first_slope": none[0], "bends": none}
        return {**found, "steps": none, **(slope if self.trend else {})}

    def extra_repr(self) -> str:
        return f"trend={self.trend}"


def path(first: Tensor, moves: Tensor) -> Tensor:
    """Return the values that begin at ``first`` () and go on by ``moves`` (times − 1,): (times,)."""
    return first + nn.functional.pad(moves.cumsum(-1), (1, 0))


def check_series(x: Data, name: str) -> Tensor:
    """Return the series y (times,) of ``x``.

    Raises:
        ZooError: it is missing, of another shape, not finite, of fewer than 3 times, or constant.
    """
    y = check_mapping(x, ("y",), name)["y"]
    if y.ndim != 1:
        raise ZooError(f"expected y of shape (times,) for {name}; got {tuple(y.shape)}; pass one series")
    low, high = check_magnitude(y, name)
    if len(y) < 3:
        raise ZooError(f"expected at least 3 times for {name}; got {len(y)}; add data")
    if bool(low == high):
        raise ZooError(f"expected a series that varies for {name}; got {float(low):g} throughout; use other data")
    return y

"""What is proved affine in the latents is so, of random programs, too; those that only look affine are fitted as they are."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

import experiments
import zoo
from zoo.structure.affine import AFFINE, SHAPE_ONLY, Dependent, Following
from zoo.structure.linear_predictor import find, linear_predictor

ROWS, SIZE = 6, 3
X = torch.randn(ROWS, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.double)
SQUARE = torch.randn(ROWS, ROWS, generator=torch.Generator().manual_seed(2), dtype=torch.double)
LOWER = SQUARE.tril() + 4 * torch.eye(ROWS)
LINE = torch.linspace(-1, 1, ROWS).double()

Piece = Callable[[Tensor, Tensor], Tensor]
PIECES: dict[str, Piece] = {
    "shift": lambda eta, z: eta + LINE,
    "scale": lambda eta, z: 0.7 * eta / (1 + LINE.square()) - 2,
    "negative": lambda eta, z: 1 - eta,
    "product": lambda eta, z: SQUARE @ eta / 3,
    "row": lambda eta, z: (eta[None] @ SQUARE)[0] / 3,
    "mean": lambda eta, z: eta - eta.mean(),
    "sum": lambda eta, z: eta + (X * z).sum(1),
    "chosen": lambda eta, z: eta[torch.tensor([3, 1, 0, 0, 5, 2])] + z[torch.arange(ROWS) % SIZE],
    "swapped": lambda eta, z: torch.cat([eta[2:], eta[:2]]).flip(0),
    "cumulative": lambda eta, z: eta.cumsum(0).roll(1),
    "padded": lambda eta, z: torch.nn.functional.pad(eta, (1, 2))[:ROWS],
    "stacked": lambda eta, z: torch.stack([eta, LINE, eta]).sum(0),
    "einsum": lambda eta, z: eta + torch.einsum("ij,j->i", X, z),
    "dot": lambda eta, z: eta + z @ X[0] * LINE,
    "unbound": lambda eta, z: torch.stack([*eta.unbind()]) + torch.outer(z, LINE).sum(0),
    "masked": lambda eta, z: (LINE > 0) * eta,
    "layer": lambda eta, z: torch.nn.functional.linear(eta, SQUARE, LINE) / 3,
    "solved": lambda eta, z: torch.linalg.solve_triangular(LOWER, eta[:, None], upper=False)[:, 0],
    "zeros": lambda eta, z: eta + torch.zeros_like(eta) + eta.new_ones(ROWS),
    "folded": lambda eta, z: eta.view(2, 3).mT.reshape(-1),
}
KINKS: dict[str, Piece] = {
    "clamp": lambda eta, z: eta.clamp(max=40.0),
    "relu": lambda eta, z: torch.relu(eta + 100),
    "leaky": lambda eta, z: torch.nn.functional.leaky_relu(eta + 100),
    "abs": lambda eta, z: (eta - 50).abs(),
    "where": lambda eta, z: torch.where(eta > 30, 2 * eta, eta),
    "one latent": lambda eta, z: eta + torch.where(z[0] > 60, z[0] - 60, 0.0),
    "sigmoid": lambda eta, z: 100 * torch.sigmoid((eta - 60) / 8),
    "bump": lambda eta, z: eta + torch.exp(-(z[1] - 30).square()),
    "product of latents": lambda eta, z: eta + 1e-3 * z[0] * z[1],
    "times itself": lambda eta, z: eta * z[2],
    "square": lambda eta, z: eta + 1e-4 * eta.square(),
    "most": lambda eta, z: torch.maximum(eta, LINE - 80),
    "top": lambda eta, z: eta + eta.max(),
    "sorted": lambda eta, z: eta.sort().values,
    "rounded": lambda eta, z: eta.round(decimals=12),
    "whole": lambda eta, z: eta + (eta / 1000).long(),
    "above": lambda eta, z: eta + 5 * (z[1] > 70),
    "quotient": lambda eta, z: eta / (1000 + z[0]),
    "remainder": lambda eta, z: eta + torch.remainder(eta, 500.0),
    "softmax": lambda eta, z: 30 * eta.softmax(0),
    "coarse": lambda eta, z: eta.half().double(),
}


def predictor_of(eta: Callable[[Tensor], Tensor]) -> Any:
    def program(y: Any) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(SIZE).double(), 1.0).to_event(1))
        with pyro.plate("rows", ROWS):
            pyro.sample("y", dist.Normal(eta(z), 1.0), obs=y)

    return find(zoo.as_model(program, pure=True), LINE)


def chained(names: list[str]) -> Callable[[Tensor], Tensor]:
    def eta(z: Tensor) -> Tensor:
        found = X @ z
        for name in names:
            found = (PIECES | KINKS)[name](found, z)
        return found

    return eta


@pytest.mark.parametrize("seed", range(4))
def test_of_random_programs_those_are_found_that_are_affine_and_no_others(seed: int) -> None:
    """60 programs a seed, half of affine pieces alone. What is found has no curvature, and is the program, near and far."""
    generator = torch.Generator().manual_seed(seed)
    kinds = [[*PIECES], [*PIECES, *KINKS]]

    def draw(kind: int) -> list[str]:
        index = torch.randint(len(kinds[kind]), (int(torch.randint(1, 6, (1,), generator=generator)),), generator=generator)
        return [kinds[kind][i] for i in index.tolist()]

    both = set()
    for number in range(60):
        names = draw(number % 2)
        eta, found = chained(names), predictor_of(chained(names))
        assert (found is None) == any(name in KINKS for name in names), names
        both.add(found is None)
        for spread in (1.0, 30.0, 1000.0) if found is not None else ():
            z = spread * torch.randn(2, SIZE, generator=generator, dtype=torch.double)
            for row in z:
                weights = torch.randn(ROWS, generator=generator, dtype=torch.double)
                point = row.clone().requires_grad_()
                [slope] = torch.autograd.grad(eta(point) @ weights, [point], create_graph=True)
                if slope.requires_grad:
                    curvature = torch.autograd.grad(slope.sum(), [point], allow_unused=True)[0]
                    assert curvature is None or not bool(curvature.any()), names
                torch.testing.assert_close(found(row[None])[0], eta(row), rtol=1e-11, atol=1e-11)
    assert both == {True, False}


@pytest.mark.parametrize("name", KINKS)
def test_no_kink_is_found(name: str) -> None:
    assert predictor_of(chained([name])) is None


@pytest.mark.parametrize("name", PIECES)
def test_each_affine_piece_is_found(name: str) -> None:
    assert predictor_of(chained([name])) is not None


LOOKS: dict[str, Callable[[Tensor], Tensor]] = {
    "if": lambda z: X @ z if z[0] > -1e6 else LINE,
    "item": lambda z: X @ z + max(0.0, z[0].item() - 1e6),
    "tolist": lambda z: X @ z + max(0.0, z.tolist()[0] - 1e6),
    "numpy": lambda z: X @ z + max(0.0, z.detach().numpy()[0] - 1e6),
    "tensor": lambda z: X @ z + torch.tensor([z[0], 1.0]).sum().clamp(min=1e6),
    "allclose": lambda z: X @ z + float(torch.allclose(z, 1e6 * torch.ones(SIZE).double())),
    "rows that are chosen": lambda z: X @ z + len(torch.nonzero(z > 1e6)),
    "in place": lambda z: torch.zeros(ROWS).double().index_put_((torch.arange(SIZE),), z),
    "noise": lambda z: X @ z + torch.randn(ROWS),
}


@pytest.mark.parametrize("name", LOOKS)
def test_a_program_that_can_not_be_followed_has_none(name: str) -> None:
    assert predictor_of(LOOKS[name]) is None


def test_an_error_that_the_program_catches_is_no_way_out() -> None:
    def eta(z: Tensor) -> Tensor:
        try:
            return X @ z if z[0] < 1e6 else LINE
        except RuntimeError:
            return X @ z

    assert predictor_of(eta) is None


class Hidden(dist.Normal):  # type: ignore[misc]
    """A normal that a latent moves by another way than by its parameters, where that is large."""

    extra: Any = 0.0

    def log_prob(self, value: Tensor) -> Tensor:
        found: Tensor = super().log_prob(value) - torch.as_tensor(self.extra).clamp(min=100.0)
        return found

    def expand(self, batch_shape: Any, _instance: Any = None) -> Hidden:
        return self


def test_the_observations_must_depend_on_nothing_else() -> None:
    def program(y: Any, what: str) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(SIZE).double(), 1.0).to_event(1))
        fn = Hidden(X @ z, torch.ones(ROWS).double())
        fn.extra = z[0] if what == "hidden" else 0.0
        scale: Any = (z[0] - 1e6).clamp(min=1.0) if what == "scale" else 1.0
        mask: Any = z[0] < 1e6 if what == "mask" else torch.ones(()).bool()
        with pyro.plate("rows", ROWS), poutine.scale(scale=scale), poutine.mask(mask=mask):
            pyro.sample("y", fn, obs=y)
        if what == "factor":
            pyro.factor("more", z[0])

    for what in ("hidden", "scale", "mask", "factor"):
        assert find(zoo.as_model(partial(program, what=what), pure=True), LINE) is None, what


def test_a_large_offset_costs_no_digits() -> None:
    found = predictor_of(lambda z: 1e9 + 1e-3 * X @ z)
    assert torch.equal(found.matrix, 1e-3 * X)


def test_the_table_names_operations_that_there_are() -> None:
    for name in [*AFFINE, *SHAPE_ONLY]:
        _, packet, overload = name.split(".")
        assert hasattr(getattr(torch.ops.aten, packet), overload), name


def test_numbers_of_a_dependent_tensor_stay_where_they_are_when_its_shape_changes() -> None:
    with Following():
        z = Dependent(torch.ones(1, 3), affine=True)
        assert z.squeeze_(0) is z
        assert (z.shape, z.value.shape, z.affine) == ((3,), (3,), True)
    with pytest.raises(RuntimeError, match="is done where nobody follows"):
        z + 1


def test_the_compiler_of_torch_is_not_imported() -> None:
    """That takes a second or two, for which many fits could be done."""
    lines = (
        "import sys, torch, zoo; x = {'X': torch.randn(40, 3), 'y': torch.ones(40)}; m = zoo.build('logistic_regression', x)",
        "assert zoo.linear_predictor(m, x) is not None; print([k for k in ('sympy', 'torch._dynamo') if k in sys.modules])")
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


#: η of two latents and rows t, the latents' prior means and scales, and true values. Near the origin most look affine.
CURVED: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], tuple[float, float], tuple[float, float], Any]] = {
    "growth": (lambda a, b, t: b * torch.sigmoid((50 * t + 1950 - a) / 8), (1950, 10), (15, 5), (1960, 12)),
    "clamp": (lambda a, b, t: a + 2 * a.clamp(max=400.0) + b * t, (405, 0), (20, 1), (410, 0.5)),
    "relu": (lambda a, b, t: a + torch.relu(a - 400) + b * t, (395, 0), (20, 1), (410, 0.5)),
    "abs": (lambda a, b, t: 2 * a + (a - 400).abs() + b * t, (395, 0), (20, 1), (410, 0.5)),
    "where": (lambda a, b, t: torch.where(a > 400, 3 * a - 800, a) + b * t, (395, 0), (20, 1), (410, 0.5)),
    "sigmoid": (lambda a, b, t: 12 * torch.sigmoid((a - 400) / 8) + b * t, (395, 0), (20, 1), (405, 0.5)),
    "bump": (lambda a, b, t: a + 30 * torch.exp(-0.5 * ((a - 400) / 20).square()) + b * t, (395, 0), (20, 1), (410, 0.5)),
    "product": (lambda a, b, t: a * b + b * t, (3, 2), (1, 1), (3.5, 2.5)),
    "far": (lambda a, b, t: torch.relu(a) + b * t, (500, 0), (5, 1), (504, 0.5)),
    "one latent": (lambda a, b, t: a + torch.relu(b - 400) * t, (0, 398), (1, 20), (0.5, 410)),
}


def on_a_grid(
    model: zoo.Model, x: dict[str, Tensor], eta: Callable[[Tensor], Tensor], loc: Tensor, scale: Tensor, start: Tensor,
) -> tuple[float, Tensor, Tensor]:
    """Return log p(x), and the posterior's mean and standard deviations, by a grid about the mode in the posterior's axes."""
    mode = start
    for _ in range(10):
        slope: Any = torch.autograd.functional.jacobian(eta, mode)
        precision = slope.mT @ slope + torch.diag(1 / scale.square())
        mode = mode + torch.linalg.solve(precision, slope.mT @ (x["y"] - eta(mode)) + (loc - mode) / scale.square())
    root = torch.linalg.cholesky(precision.inverse())
    axis = torch.linspace(-7, 7, 57).double()
    grid = mode + torch.cartesian_prod(axis, axis) @ root.mT
    log_joint = torch.cat([model.log_joint(x, part)[:, 0] for part in grid[:, None].split(512)])
    weights = log_joint.softmax(0)
    mean = weights @ grid
    evidence = log_joint.logsumexp(0) + root.logdet() + 2 * (axis[1] - axis[0]).log()
    return float(evidence), mean, (weights @ (grid - mean).square()).sqrt()


@pytest.mark.parametrize("name", CURVED)
def test_a_program_that_looks_affine_is_fitted_as_it_is(name: str) -> None:
    """The posterior is nearly normal, so the ELBO comes near log p."""
    curve, *known = CURVED[name]
    loc, scale, top = (torch.tensor(each).double() for each in known)
    t = torch.linspace(-1, 1, 800).double()

    def eta(z: Tensor) -> Tensor:
        return curve(z[0], z[1], t)

    def program(x: Any) -> None:
        a, b = (pyro.sample(name, dist.Normal(loc[i], scale[i])) for i, name in enumerate("ab"))
        with pyro.plate("rows", 800):
            pyro.sample("y", dist.Normal(curve(a, b, x["t"]), 1.0), obs=x["y"])

    noise = torch.randn(800, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    model, x = zoo.as_model(program, pure=True), {"t": t, "y": eta(top) + noise}
    assert linear_predictor(model, x) is None
    evidence, mean, deviation = on_a_grid(model, x, eta, loc, scale, top)
    fit = experiments.fit(model, "full_rank", x, progress=False)
    q: Any = fit.guide.posterior(x)
    assert fit.converged
    assert fit.elbo == pytest.approx(evidence, abs=0.05)
    assert bool(((q.mean[0] - mean).abs() < 0.1 * deviation).all())

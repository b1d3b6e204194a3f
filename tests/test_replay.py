"""Computations repeated by their operations alone: the same numbers, and Python again where they would not be."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import experiments
import zoo
import zoo.direct
import zoo.replay
from tests.cases import case
from zoo.direct import direct, tensors
from zoo.replay import AGAIN, SHAPES, Replay


class Counted:
    """A function that counts how often Python runs it."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]):
        self.function, self.runs = function, 0

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        self.runs += 1
        return self.function(*inputs)


def operations(known: Any) -> set[str]:
    """Return the names of the operations that a recording repeats."""
    return {name.rsplit("_", 1)[0] for name in known.run.__globals__}


def slope(x: Tensor) -> tuple[Tensor, ...]:
    x = x.detach().requires_grad_()
    value = (x.sin() * x.exp()).sum() + torch.zeros(3).sum()
    return value.detach(), *torch.autograd.grad(value, [x])


def test_operations_are_written_down_once_and_held_against_the_function_again() -> None:
    counted = Counted(slope)
    replay = Replay(counted)
    for i in range(AGAIN * 2 + 1):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(i))
        for ours, theirs in zip(replay(x), slope(x), strict=True):
            assert torch.equal(ours, theirs)
    assert replay.reason == ""
    assert counted.runs == 3, "to write it down, at the second call, and at the 64th"


def test_each_shape_is_written_down_and_too_many_are_run_by_python() -> None:
    counted = Counted(slope)
    replay = Replay(counted)
    for _ in range(3):
        for size in range(1, SHAPES + 3):
            x = torch.arange(float(size))
            assert torch.equal(replay(x)[1], slope(x)[1])
    assert counted.runs == 2 * SHAPES + 3 * 2


def test_parameters_that_move_are_seen_and_constants_are_not_done_again() -> None:
    weight, fixed = nn.Parameter(torch.ones(2)), torch.arange(2.0)
    replay = Replay(lambda x: ((x * weight + fixed.exp()).detach(),), [weight])
    for i in range(5):
        with torch.no_grad():
            weight.fill_(float(i))
        assert torch.equal(replay(torch.ones(2))[0], i + fixed.exp())
    assert replay.reason == ""
    [known] = replay._known.values()
    assert "exp" not in operations(known)


def test_views_that_are_there_already_are_left_out() -> None:
    weight = nn.Parameter(torch.randn(3, 2))

    def function(x: Tensor) -> tuple[Tensor, ...]:
        back = weight.T.view(2, 3).permute(0, 1).T
        return ((x[None] @ back.expand(3, 2))[0].detach(), (2 * x[None]).sum(0, keepdim=True))

    replay = Replay(function, [weight])
    for i in range(4):
        with torch.no_grad():
            weight.add_(1.0)
        x = torch.full((4, 3), float(i))
        for a, b in zip(replay(x), function(x), strict=True):
            assert torch.equal(a, b)
    assert replay.reason == ""
    [known] = replay._known.values()
    left = operations(known)
    assert "mm" in left
    assert not left & {"t", "permute", "expand", "sum"}, left


def test_an_operation_is_called_by_torch_s_own_name_for_it() -> None:
    x, aten = torch.randn(3, 4), torch.ops.aten
    calls: list[tuple[Any, tuple[Any, ...], Any]] = [
        (aten.mul.Tensor, (x, x), torch.mul), (aten.sum.dim_IntList, (x, [1], True), torch.sum),
        (aten.view.default, (x, [12]), Tensor.view), (aten.transpose.int, (x, 0, 1), torch.transpose),
        (aten.slice.Tensor, (x, 0, 1, 2), None), (aten.mul.Scalar, (x, 2.0), None), (aten.max.dim, (x, 1), None)]
    for func, args, way in calls:
        found = direct(func, args, {}, func(*args))
        assert found is (way or func._op), func
        for ours, theirs in zip(tensors([found(*args)]), tensors([func(*args)]), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("impostor", [
    lambda x: x.exp() + 1, lambda x: (x.exp(),), lambda x: x.neg(), lambda x: (2 * x).exp(), lambda x: x])
def test_a_function_that_is_something_else_is_not_taken_for_an_operation(
    impostor: Callable[[Tensor], Any], monkeypatch: pytest.MonkeyPatch,
) -> None:
    func, x = torch.ops.aten.exp.default, torch.randn(3)
    monkeypatch.setattr(zoo.direct, "_KNOWN", {})
    monkeypatch.setattr(torch, "exp", impostor)
    assert direct(func, (x,), {}, func(x)) is Tensor.exp
    monkeypatch.setattr(zoo.direct, "_KNOWN", {})
    monkeypatch.delattr(torch, "exp")
    monkeypatch.setattr(zoo.direct, "Tensor", type("Tensor", (Tensor,), {"exp": staticmethod(impostor)}))
    assert direct(func, (x,), {}, func(x)) is func._op


def test_a_shape_that_is_changed_in_place_is_repeated_as_a_view() -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        whole = 2 * x
        before = whole.sum(0)
        row = x[0] @ whole  # torch changes the shape of what this product is
        return whole.t_().sum(0) + before, row, whole

    replay = Replay(function)
    for i in range(4):
        x = torch.arange(6.0).view(2, 3)[:, :2] + i
        for ours, theirs in zip(replay(x), function(x), strict=True):
            assert torch.equal(ours, theirs)
    assert replay.reason == ""


def test_a_shape_from_outside_that_is_changed_in_place_is_left_to_python() -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        return (x.t_().sum(0),)

    replay = Replay(function)
    for i in range(4):
        x = torch.arange(6.0).view(2, 3) + i
        assert torch.equal(replay(x.clone())[0], x.sum(1))
    assert "in place" in replay.reason


def test_random_numbers_are_those_of_the_function() -> None:
    def draw(x: Tensor) -> tuple[Tensor, ...]:
        return (x + dist.HalfCauchy(torch.ones(3)).sample() + torch.randn(3),)

    replay = Replay(draw)
    with zoo.seeded(1):
        ours = [replay(torch.zeros(3))[0] for _ in range(6)]
    with zoo.seeded(1):
        theirs = [draw(torch.zeros(3))[0] for _ in range(6)]
    assert replay.reason == ""
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert len({tuple(each.tolist()) for each in ours}) == 6


def branch(x: Tensor) -> tuple[Tensor, ...]:
    return (x.square() if x.sum() > 2 else -x,)


def mask(x: Tensor) -> tuple[Tensor, ...]:
    return (x[x > 1].sum(),)


def by_numpy(x: Tensor) -> tuple[Tensor, ...]:
    return (x + torch.from_numpy(np.exp(x.numpy())),)


class Steps:
    def __init__(self) -> None:
        self.taken = 0

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        self.taken += 1
        return (x * self.taken,)


class Running:
    def __init__(self) -> None:
        self.total = torch.zeros(3)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        self.total += x
        return (self.total.clone(),)


@pytest.mark.parametrize(("make", "reason"), [
    (lambda: branch, "Python reads the outcome of aten.gt.Scalar"), (lambda: mask, "Python reads the outcome of aten.index"),
    (lambda: by_numpy, "other operations from call to call"), (Steps, "other operations from call to call"),
    (Running, "changes a tensor from outside in place")], ids=["branch", "mask", "numpy", "counter", "running"])
def test_what_can_not_be_repeated_is_run_by_python(make: Any, reason: str) -> None:
    replay, function = Replay(make()), make()
    for i in range(6):
        x = torch.full((3,), float(i) / 2)
        torch.testing.assert_close(replay(x)[0], function(x)[0], rtol=0, atol=0)
    assert reason.split(" of ")[0] in replay.reason


def test_what_is_changed_in_place_inside_is_changed_each_time() -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        room = torch.zeros(4)
        whole = room.view(2, 2)
        before = room + 1
        room[:3] = x
        whole *= 2
        return before, room + 1, whole.exp()

    replay = Replay(function)
    for i in range(5):
        x = torch.arange(3.0) + i
        for ours, theirs in zip(replay(x), function(x), strict=True):
            assert torch.equal(ours, theirs)
    assert replay.reason == ""


@pytest.mark.parametrize("name", [name for name, entry in zoo.MODELS.items() if entry.latents == "continuous"])
def test_every_model_of_continuous_latents_is_repeated(name: str) -> None:
    model, x = case(name)
    latents = model.latents(x)
    replay = Replay(lambda z: model.log_terms_and_slope(x, z), [*model.parameters(), *model.buffers()])
    with zoo.seeded(0):
        for _ in range(4):
            z = 0.1 * torch.randn(6, latents.units, latents.size, dtype=torch.double)
            for ours, theirs in zip(replay(z), model.log_terms_and_slope(x, z), strict=True):
                assert torch.equal(ours, theirs)
    assert replay.reason == ""


@pytest.mark.parametrize(("guide", "options"), [
    ("mean_field:encoder", {}), ("full_rank:encoder", {"objective": "iwae", "estimator": "dreg", "draws": 4}),
    ("mixture:semi", {"warm_up": 5}), ("mean_field:encoder", {"batch_size": 40, "view": lambda x: (x > torch.rand(())).to(x)})])
def test_svi_comes_to_the_same_bits_with_and_without(
    guide: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = zoo.dataset("digits", "images", binarise="threshold").tensor[:100]

    def fit() -> experiments.Fit:
        with zoo.seeded(0):
            model = zoo.build("vae", x, latent=2, hidden=(16,))
        return experiments.fit(model, guide, x, steps=40, progress=False, **options)

    ours, seen = fit(), []
    monkeypatch.setattr(Replay, "__call__", lambda self, *inputs: seen.append(self) or self.function(*inputs))
    theirs = fit()
    assert seen
    assert [elbo for _, elbo, _ in ours.history] == [elbo for _, elbo, _ in theirs.history]
    for one, other in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_program_that_branches_on_its_latents_is_fitted_all_the_same() -> None:
    def program(x: Tensor) -> None:
        level = pyro.sample("level", dist.Normal(0.0, 3.0))
        scale = 1.0 if level > 0 else 2.0
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(level, scale), obs=x)

    x = torch.tensor([2.0, 3.0, 2.5], dtype=torch.double)
    with pytest.warns(zoo.ZooWarning, match="can't run under vmap"):
        done = experiments.fit(zoo.as_model(program), "mean_field", x, progress=False)
    posterior = 1 / (1 / 9 + 3)
    q: Any = done.guide.posterior(x)
    assert q.mean.item() == pytest.approx(posterior * 7.5, abs=0.02)
    assert q.stddev.item() == pytest.approx(posterior**0.5, rel=0.05)


def test_a_model_may_say_that_it_is_not_to_be_repeated() -> None:
    class Counting(zoo.Model):
        repeatable = False
        runs = 0

        def forward(self, x: Tensor) -> None:
            type(self).runs += 1
            level = pyro.sample("level", dist.Normal(torch.zeros(()).to(x), 3.0))
            with pyro.plate("rows", len(x)):
                pyro.sample("x", dist.Normal(level, 1.0), obs=x)

    x = torch.tensor([2.0, 3.0, 2.5], dtype=torch.double)
    model = Counting()
    done = experiments.fit(model, "mean_field", x, method="svi", steps=100, progress=False)
    assert Counting.runs > 100
    Counting.repeatable, Counting.runs = True, 0
    again = experiments.fit(model, "mean_field", x, method="svi", steps=100, progress=False)
    assert Counting.runs < 30
    assert again.elbo == pytest.approx(done.elbo, rel=1e-12)


def test_operations_that_are_not_known_are_run_by_python() -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        return (torch.eye(3).to_sparse() @ x,)

    replay = Replay(function)
    for i in range(4):
        x = torch.full((3, 1), float(i))
        assert torch.equal(replay(x)[0], x)
    assert replay.reason


def test_parameters_that_share_a_gradient_are_clipped_once_each() -> None:
    class Sum(zoo.Model):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(3).double()), nn.Parameter(torch.zeros(3).double())

        def forward(self, x: Tensor) -> None:
            level = pyro.sample("level", dist.Normal(torch.zeros(()).to(x), 1.0))
            with pyro.plate("rows", len(x)):
                pyro.sample("x", dist.Normal(level + self.a + self.b, 1.0).to_event(1), obs=x)

    x = 50 + torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    model, clip = Sum(), 0.5
    experiments.fit(model, "mean_field", x, method="svi", steps=5, clip=clip, learning_rate=1e-3, progress=False)
    assert model.a.grad is not None
    assert torch.equal(model.a.grad, model.b.grad)
    # Each column's gradient is about g: of the norm's square a and b have 3 g² each, and the guide's mean has (3 g)².
    assert model.a.grad.norm().item() == pytest.approx(clip * (3 / 15) ** 0.5, rel=1e-3)


# -- kept from fit to fit ------------------------------------------------------------------------------------------------


class Level(zoo.Model):
    """x_i ~ N(level, scale²), level ~ N(0, prior²)."""

    def __init__(self) -> None:
        super().__init__()
        self.prior, self.runs = 3.0, 0

    def forward(self, x: Tensor) -> None:
        self.runs += 1
        level = pyro.sample("level", dist.Normal(x.new_zeros(()), self.prior))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(level, 1.0), obs=x)


def alone(name: str) -> tuple[zoo.Model, Any]:
    """Return a case whose model no other test has fitted."""
    model, x = case(name)
    return copy.deepcopy(model), x


def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with each computation that is written down."""
    seen: list[int] = []
    compiled = zoo.replay.compiled
    monkeypatch.setattr(zoo.replay, "compiled", lambda *given: seen.append(1) or compiled(*given))
    return seen


@pytest.mark.parametrize("name", ["eight_schools", "logistic_regression", "bayesian_gmm"])
def test_a_second_fit_writes_nothing_down_and_comes_to_the_same_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = written(monkeypatch)
    model, x = alone(name)
    first = experiments.fit(model, "mean_field", x, progress=False)
    assert seen
    seen.clear()
    again = experiments.fit(model, "mean_field", x, progress=False)
    assert not seen
    assert [elbo for _, elbo, _ in again.history] == [elbo for _, elbo, _ in first.history]


def test_a_number_that_was_set_to_another_is_seen_by_the_next_fit() -> None:
    x, model = torch.tensor([2.0, 3.0, 2.5], dtype=torch.double), Level()
    experiments.fit(model, "mean_field", x, progress=False)
    for prior in (0.5, 3.0):
        model.prior = prior
        done = experiments.fit(model, "mean_field", x, progress=False)
        q: Any = done.guide.posterior(x)
        precision = 3 + prior**-2
        assert q.mean.item() == pytest.approx(7.5 / precision, abs=0.02 * precision**-0.5)
        assert q.stddev.item() == pytest.approx(precision**-0.5, rel=0.02)


def test_data_that_were_changed_in_place_are_other_data(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = written(monkeypatch)
    x, model = torch.tensor([2.0, 3.0, 2.5], dtype=torch.double), Level()
    experiments.fit(model, "mean_field", x, progress=False)
    seen.clear()
    x += 1
    done = experiments.fit(model, "mean_field", x, progress=False)
    q: Any = done.guide.posterior(x)
    assert seen
    assert q.mean.item() == pytest.approx(10.5 / (3 + 1 / 9), abs=0.02)


def test_a_kept_replay_of_many_shapes_makes_room() -> None:
    counted = Counted(slope)
    replay = Replay(counted)
    for size in range(1, SHAPES + 1):
        replay(torch.arange(float(size)))
    replay.go_on(counted)
    counted.runs = 0
    for _ in range(3):
        replay(torch.arange(float(SHAPES + 1)))
    assert counted.runs == 2, "written down in place of an old one, and held against it"


def test_what_no_longer_holds_is_written_down_anew_in_all_shapes() -> None:
    factor = [1.0]
    replay = Replay(lambda x: (factor[0] * x,))
    for size in range(1, SHAPES + 1):
        replay(torch.ones(size))
    factor[0] = 3.0
    replay.go_on(replay.function)
    for _ in range(2):
        for size in range(1, SHAPES + 2):
            assert torch.equal(replay(torch.ones(size))[0], torch.full((size,), 3.0))
    assert replay.reason == ""


def test_copies_and_saved_models_hold_no_replays() -> None:
    model, x = alone("eight_schools")
    experiments.fit(model, "mean_field", x, progress=False)
    bare = pickle.dumps(zoo.build("eight_schools", x))
    assert abs(len(pickle.dumps(model)) - len(bare)) < 200
    assert experiments.fit(copy.deepcopy(model), "mean_field", x, progress=False).elbo is not None


@pytest.mark.parametrize("large", ["data", "what is made of them"])
def test_what_is_large_is_let_go_after_a_fit(large: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = written(monkeypatch)
    model, x = alone("linear_regression")
    monkeypatch.setattr(zoo.replay, "KEPT", sum(value.nbytes for value in x.values()) - (large == "data"))
    experiments.fit(model, "mean_field", x, progress=False)
    densities = len(seen)
    kept = model._replays._kept
    assert "density" not in kept
    assert ("prior" in kept) == (large != "data"), "a prior of few coefficients holds little"
    experiments.fit(model, "mean_field", x, progress=False)
    assert len(seen) > densities, "the density was written down again"


def test_a_glance_holds_one_row_against_what_is_kept() -> None:
    glances, factor = list[torch.Size](), [1.0]
    counted = Counted(lambda x: (factor[0] * x.square(), 2 * factor[0] * x))

    def glance(x: Tensor) -> tuple[Tensor, ...]:
        glances.append(x.shape)
        return (factor[0] * x.square(),)

    replay = Replay(counted)
    x = torch.arange(3.0)[:, None] + 1
    for _ in range(2):
        replay(x)
    runs = counted.runs
    replay.go_on(counted, glance)
    for _ in range(2):
        assert torch.equal(replay(x)[1], 2 * x)
    assert glances == [torch.Size([1, 1])]
    assert counted.runs == runs, "the function itself is not run where the glance agrees"
    factor[0] = 3.0
    replay.go_on(counted, glance)
    assert torch.equal(replay(x)[1], 6 * x)
    assert counted.runs > runs


class Cut(Level):
    """A level that counts above ``cut`` only, where no draw of a first fit may lie."""

    cut = 100.0

    def forward(self, x: Tensor) -> None:
        level = pyro.sample("level", dist.Normal(x.new_zeros(()), self.prior))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(torch.where(level > self.cut, 0.0, 1.0) * level, 1.0), obs=x)


def test_a_number_that_no_draw_shows_is_seen_by_the_next_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = written(monkeypatch)
    x, model = torch.tensor([2.0, 3.0, 2.5], dtype=torch.double), Cut()
    experiments.fit(model, "mean_field", x, progress=False)
    seen.clear()
    model.cut = 50.0
    experiments.fit(model, "mean_field", x, progress=False)
    assert seen


def test_a_climb_does_not_evaluate_again_where_the_one_before_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Tensor] = []
    call = Replay.__call__
    monkeypatch.setattr(Replay, "__call__", lambda self, *inputs: asked.extend(inputs) or call(self, *inputs))
    model, x = alone("eight_schools")
    experiments.fit(model, "mean_field", x, progress=False)
    assert len(asked) > 8
    assert not any(a.shape == b.shape and torch.equal(a, b) for a, b in pairwise(asked))

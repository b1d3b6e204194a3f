"""Data as people have them: several arguments, arrays, lists, frames, and settings beside tensors."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroSample
from torch import Tensor

import experiments
import guides
import zoo

SIGMA = torch.tensor([1.0, 2.0, 1.5], dtype=torch.double)
Y = torch.tensor([0.3, -1.0, 2.0], dtype=torch.double)


def effects(sigma: Tensor, y: Tensor | None = None, width: float = 5.0) -> None:
    mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=sigma.dtype), width))
    with pyro.plate("rows", len(sigma)):
        pyro.sample("y", dist.Normal(mu, sigma), obs=y)


def effects_of_one(x: dict[str, Tensor]) -> None:
    effects(x["sigma"], x["y"])


def elbo(*x: Any, **given: Any) -> float:
    return float(experiments.compare(*x, guides=["full_rank"], **given).rows[0].evaluation.elbo.value)


TRUTH = float(dist.MultivariateNormal(torch.zeros(3).double(), torch.diag(SIGMA.square()) + 25.0).log_prob(Y))


@pytest.mark.parametrize("given", [
    ((SIGMA, Y), {}), ((), {"args": (SIGMA.numpy(),), "kwargs": {"y": Y.tolist()}}), (({"sigma": SIGMA, "y": Y},), {}),
    ((pd.DataFrame({"sigma": SIGMA.numpy(), "y": Y.numpy()}),), {}), ((SIGMA,), {"kwargs": {"y": Y, "width": 5.0}})])
def test_a_program_of_several_arguments_is_called_as_it_is_written(given: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    assert elbo(effects, *given[0], **given[1]) == pytest.approx(TRUTH, abs=1e-6)


def test_every_entry_point_takes_them() -> None:
    done = experiments.fit(effects, "full_rank", SIGMA, Y)
    assert experiments.evaluate(done.model, done.guide, SIGMA, Y).elbo.value == pytest.approx(TRUTH, abs=1e-6)
    tree = experiments.posterior(done.model, done.guide, SIGMA.numpy(), Y.numpy(), draws=5)
    assert tree["posterior_predictive"]["y"].shape == (1, 5, 3)
    x = zoo.arguments(effects, SIGMA, y=Y)
    assert experiments.evidence(done.model, x, done.guide).value == pytest.approx(TRUTH, abs=1e-3)
    assert guides.build("mean_field", done.model, x).size == 2


def test_rows_to_predict_have_no_observations() -> None:
    done = experiments.fit(effects, "full_rank", SIGMA, Y)
    new = zoo.arguments(effects, torch.ones(7).double())
    z = done.guide.posterior(zoo.arguments(effects, SIGMA, Y)).sample((4,))
    assert done.model.predict({**new, "y": None} if isinstance(new, dict) else {"sigma": new}, z)["y"].shape == (4, 7)


class Line(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.w = PyroSample(dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))

    def forward(self, X: Tensor, *more: Tensor, y: Tensor | None = None, **settings: float) -> None:
        mean = X @ self.w + sum(more)
        with pyro.plate("rows", len(X)):
            pyro.sample("y", dist.Normal(mean, settings.get("scale", 1.0)), obs=y)


def test_a_module_with_all_kinds_of_arguments() -> None:
    X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    table = experiments.compare(
        Line(), X, SIGMA.repeat(2), Y.repeat(2), kwargs={"y": Y.repeat(2), "scale": 2.0}, guides="full_rank")
    centre = SIGMA.repeat(2) + Y.repeat(2)
    truth = dist.MultivariateNormal(centre, X @ X.T + 4 * torch.eye(6).double()).log_prob(Y.repeat(2))
    assert table.rows[0].evaluation.elbo.value == pytest.approx(float(truth), abs=1e-6)


def test_pyro_guides_take_what_their_model_takes() -> None:
    def own(sigma: Tensor, y: Tensor | None = None, width: float = 5.0) -> None:
        loc = pyro.param("loc", torch.zeros(()).double())
        scale = pyro.param("scale", torch.ones(()).double(), constraint=dist.constraints.positive)
        pyro.sample("mu", dist.Normal(loc, scale))

    for guide in (AutoNormal, AutoNormal(effects), own):
        done = experiments.fit(effects, guide, SIGMA, Y, steps=20)
        assert np.isfinite(experiments.evaluate(done.model, done.guide, SIGMA, Y).elbo.value)


def counties(x: Any) -> None:
    mu = pyro.sample("mu", dist.Normal(torch.zeros(()).double(), 1.0))
    with pyro.plate("counties", 3):
        effect = pyro.sample("effect", dist.Normal(mu, 1.0))
    with pyro.plate("homes", len(x["y"])):
        pyro.sample("y", dist.Normal(effect[x["county"]], 1.0), obs=x["y"])


def test_a_frames_words_are_coded_and_label_the_tree() -> None:
    frame = pd.DataFrame({"county": ["b", "a", "c", "a"], "y": [1.0, 2.0, 0.5, 0.0]})
    table = experiments.compare(counties, frame, ["full_rank"])
    tree = experiments.posterior(table.model, table.guide("full_rank"), frame, draws=5)
    assert tree["posterior"]["counties"].values.tolist() == ["a", "b", "c"]
    assert table.x["county"].tolist() == [1, 0, 2, 0]  # type: ignore[index]


def homes(county: Any, y: Any) -> None:
    with pyro.plate("counties", 3):
        effect = pyro.sample("effect", dist.Normal(torch.zeros(()).double(), 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(effect[county], 1.0), obs=y)


def test_words_are_coded_where_columns_are_passed_by_name() -> None:
    frame = pd.DataFrame({"county": ["b", "a", "c", "a"], "y": [1.0, 2.0, 0.5, 0.0]})
    whole: Any = zoo.arguments(homes, frame)
    for columns in (dict(frame), frame.to_dict("list"), {name: frame[name].to_numpy() for name in frame}):
        for x in (zoo.arguments(homes, **columns), zoo.arguments(homes, columns)):
            assert x.categories == whole.categories == {"county": ["a", "b", "c"]}  # type: ignore[union-attr]
            assert all(torch.equal(x[name].double(), whole[name].double()) for name in frame)  # type: ignore[index]
    table = experiments.compare(homes, kwargs=dict(frame), guides=["full_rank"])
    tree = experiments.posterior(table.model, table.guide("full_rank"), table.x, draws=5)
    assert tree["posterior"]["counties"].values.tolist() == ["a", "b", "c"]
    with pytest.raises(zoo.ZooError, match=r"expected entry 'county' as a tensor, .* or a frame; got dict"):
        zoo.arguments(homes, county={"b": 1.0}, y=[1.0])  # its keys are no column
    assert zoo.arguments(homes, county=np.array(2), y=[1.0])["county"] == 2
    with pytest.raises(zoo.ZooError, match=r"expected entry 'county' as a tensor, .* or a frame; got ndarray"):
        zoo.arguments(homes, county=np.array([1, 2], dtype=object), y=[1.0])  # no words, and no numbers that torch knows
    with pytest.raises(zoo.ZooError, match="expected entry 'county' without missing values"):
        zoo.arguments(homes, county=pd.Series([None, "b"]), y=[1.0, 2.0])
    with pytest.raises(zoo.ZooError, match="expected entry 'county' without missing values"):
        zoo.arguments(homes, county=["b", None], y=[1.0, 2.0])


def coin(y: Any) -> None:
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    with pyro.plate("flips", len(y), dim=-1):
        pyro.sample("y", dist.Bernoulli(p), obs=y)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8, torch.float32])
def test_flips_of_a_coin_are_whole_numbers_or_truth_values_too(dtype: torch.dtype) -> None:
    """As a file's column holds them; torch has a Bernoulli's density at floating numbers alone."""
    y = torch.tensor([1, 0, 1, 1]).to(dtype)
    table = experiments.compare(coin, y, guides=["full_rank"], method="svi", steps=50)
    assert table.evidence.value == pytest.approx(-math.log(20), abs=1e-4)  # B(4, 2) = 1/20
    tree = experiments.posterior(table.model, table.guide("full_rank"), y, draws=5)
    assert tree["observed_data"]["y"].values.tolist() == y.tolist()
    assert tree["posterior_predictive"]["y"].isin([0, 1]).all()


def two_coins(y: Any) -> None:
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    with pyro.plate("flips", len(y)):
        kinds = dist.Categorical(torch.ones(2))
        pyro.sample("y", dist.MixtureSameFamily(kinds, dist.Bernoulli(torch.stack([p, 1 - p], -1))), obs=y)


def hidden_coins(y: Any) -> None:
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    with pyro.plate("flips", len(y)):
        which = pyro.sample("which", dist.Categorical(torch.ones(2)))
        seen = torch.ones(len(y), dtype=torch.bool)
        pyro.sample("y", dist.Bernoulli(torch.stack([p, 1 - p])[which]).mask(seen), obs=y)


@pytest.mark.parametrize("program", [two_coins, hidden_coins])
def test_flips_may_be_of_mixtures_and_of_coins_that_are_summed_out(program: Any) -> None:
    """Whatever p is, a coin of which nobody knows whether it is turned round shows each side half the time."""
    y = torch.tensor([1, 0, 1, 1])
    table = experiments.compare(program, y, guides=["full_rank"], method="svi", steps=50)
    assert table.evidence.value == pytest.approx(-4 * math.log(2), abs=1e-4)


def test_a_polars_frame_is_as_one_of_pandas() -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"county": ["b", "a", "c", "a"], "y": [1.0, 2.0, 0.5, 0.0]})
    x = zoo.arguments(counties, frame)
    assert x["county"].tolist() == [1, 0, 2, 0]  # type: ignore[index]


def slopes(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def test_whole_numbers_as_real_observations_are_remarked_on() -> None:
    x, y = np.random.default_rng(0).normal(size=(20, 2)), np.arange(20)
    whole, real = (experiments.compare(slopes, x, values, guides=["full_rank"], progress=False) for values in (y, 1.0 * y))
    assert "whole numbers are taken as real observations of y" in str(whole)
    assert "whole numbers" not in str(real)
    assert whole.evidence.value == real.evidence.value


def test_whole_numbers_in_a_product_are_named() -> None:
    with pytest.raises(zoo.ZooError, match=r"make x, y floating, or mend the program"):
        experiments.compare(slopes, np.ones((20, 2), dtype=int), np.arange(20), guides=["full_rank"], progress=False)


def test_wrapped_programs_are_copied_and_pickled() -> None:
    x = zoo.arguments(effects, SIGMA, Y)
    model = zoo.as_model(effects)
    z = model.sample_prior(x, 2)
    before = model.log_joint(x, z)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.log_joint(x, z), before)


def test_a_changed_setting_is_another_layout() -> None:
    def of_count(count: int, y: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(torch.zeros(count).double(), 1.0).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(a.sum(), 1.0), obs=y)

    model = zoo.as_model(of_count)
    assert [model.latents({"count": n, "y": Y}).size for n in (2, 3)] == [2, 3]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: experiments.compare(effects, SIGMA), "expected a program with observed sites"),
    (lambda: experiments.compare(lambda a, b: None, SIGMA), "expected a, b for <lambda>; got one tensor; pass all arguments"),
    (lambda: experiments.compare(lambda a, b: None, {"a": SIGMA}), "expected a, b for <lambda>; got a mapping of a;"),
    (lambda: experiments.compare(effects, 1, 2, 3, 4), "expected arguments of effects.*too many positional arguments"),
    (lambda: experiments.compare(effects_of_one, object()), "expected data as a tensor, an array, a list of numbers or"),
    (lambda: experiments.compare(effects), "expected data for the program; got none"),
    (lambda: experiments.compare(lambda: None, SIGMA), "which takes no argument; give it one"),
    (lambda: experiments.compare(effects_of_one, pd.DataFrame({"y": ["a", None]})), "column 'y' without missing values"),
    (lambda: experiments.compare(effects, pd.DataFrame({"a": ["b"]}), Y), "as a frame of numbers; got columns of words: a"),
])
def test_errors_name_the_mend(call: Any, message: str) -> None:
    with pytest.raises(zoo.ZooError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_program_under_a_handler_takes_what_is_under_it() -> None:
    one = poutine.reparam(effects_of_one, config={"mu": LocScaleReparam(0.0)})
    several = poutine.reparam(effects, config={"mu": LocScaleReparam(0.0)})
    assert elbo(one, {"sigma": SIGMA, "y": Y}) == pytest.approx(TRUTH, abs=1e-6)
    assert elbo(several, SIGMA, Y) == pytest.approx(TRUTH, abs=1e-6)


def test_a_program_of_any_arguments_takes_a_mapping_as_one() -> None:
    def passing(*args: Any, **kwargs: Any) -> None:
        (effects if len(args) > 1 or kwargs else effects_of_one)(*args, **kwargs)

    assert elbo(passing, {"sigma": SIGMA, "y": Y}) == pytest.approx(TRUTH, abs=1e-6)
    assert elbo(passing, SIGMA, Y) == pytest.approx(TRUTH, abs=1e-6)
    assert elbo(passing, SIGMA, kwargs={"y": Y}) == pytest.approx(TRUTH, abs=1e-6)


def test_the_only_argument_may_be_named() -> None:
    def means(y: Tensor) -> None:
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=y)

    y = torch.tensor([0.5, -1.0])
    assert torch.equal(zoo.arguments(means, y=[0.5, -1.0]), zoo.arguments(means, y))
    a, b = experiments.evidence(means, y), experiments.compare(means, guides=["mean_field"], kwargs={"y": y}).evidence
    assert a.value == pytest.approx(b.value, abs=1e-6)

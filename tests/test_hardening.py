"""What a review and an adversary found: each of these once gave a wrong number, a traceback or silence."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import Tensor, nn

import experiments
import guides
import zoo
from experiments.cli import run
from experiments.comparison.gap_split import split
from experiments.inference.svi.objectives import Objective, stochastic_bound
from experiments.log_evidence.log_weights import LogWeights
from experiments.reporting import figures
from experiments.runs.job import Job
from experiments.runtime.seeds import Stream
from zoo.program.run import seeded

WINE = zoo.dataset("wine", standardise=True).tensor


def rows(count: int = 40, columns: int = 3) -> Tensor:
    with seeded(0):
        return torch.randn(count, columns, dtype=torch.double)


# Numbers


def test_an_encoder_of_a_finite_support_lacks_amortisation_alone() -> None:
    x = zoo.dataset("faithful").x
    table = experiments.compare(zoo.build("gmm", x), x, ["categorical:encoder", "categorical"], steps=100, seed=0)
    encoder = table.rows[0]
    assert encoder.split is not None
    assert encoder.split.approximation.value == pytest.approx(0.0, abs=1e-8)
    assert encoder.split.amortisation.value == pytest.approx(encoder.evaluation.kl_gap.value, abs=1e-8)
    assert encoder.split.amortisation.se == 0.0


@pytest.mark.parametrize("scale", [1e4, 1e-3])
def test_em_of_linear_vae_does_not_depend_on_the_units(scale: float) -> None:
    x = rows(60, 1) @ rows(4, 1).T + 0.1 * rows(60, 4)
    elbos = [
        experiments.fit(zoo.build("linear_vae", s * x, latent=1, seed=0), "exact", s * x, steps=200).elbo for s in (1.0, scale)]
    assert elbos[0] is not None
    assert elbos[1] == pytest.approx(elbos[0] - x.numel() * math.log(scale), abs=1e-4)
    best = experiments.evidence(zoo.build("ppca", x, latent=1), x).value  # at its maximum from the start
    assert best - 5 < elbos[0] <= best


@pytest.mark.parametrize("estimator", ["stl", "dreg"])
def test_estimators_score_the_very_guide_that_was_drawn_from(estimator: str) -> None:
    """With dropout the guide is another one at each call: its log q must be that of the masks that z came from."""
    model = zoo.build("linear_vae", WINE)
    with seeded(0):
        network = nn.Sequential(nn.Linear(13, 32), nn.Dropout(0.5), nn.Linear(32, 4)).double()
    guide = guides.build("mean_field:encoder", model, WINE, network=network)
    guide.train()
    values = []
    for name in ("reparameterised", estimator):
        with seeded(1):
            bound = stochastic_bound(model, guide, WINE, None, 178, 4, Objective("elbo", 1.0), name)
            values.append(float(bound.value.detach()))
    # One takes log q from the noise, the other at z: the same but for rounding, where other masks are nats apart.
    assert values[0] == pytest.approx(values[1], rel=1e-13)


def test_iwae_takes_several_draws() -> None:
    done = {}
    for objective in ("elbo", "iwae"):
        model = zoo.build("linear_vae", WINE, seed=0)
        done[objective] = experiments.fit(model, "mean_field:encoder", WINE, steps=5, objective=objective)
    assert done["iwae"].history[0][1] > done["elbo"].history[0][1]
    with pytest.raises(zoo.ZooError, match="expected 2 or more draws with objective iwae, which is the ELBO at one; got 1"):
        experiments.fit(zoo.build("linear_vae", WINE), "mean_field:encoder", WINE, objective="iwae", draws=1)


@pytest.mark.long
def test_guides_of_own_units_are_fitted_to_the_view_they_are_scored_on() -> None:
    data = zoo.dataset("digits", "images", binarise="dynamic")
    x = data.tensor[:20]
    model = zoo.build("vae", data.view(x), latent=2, hidden=(8,))
    asked = ["mean_field:encoder", "mixture(2)", "mean_field:semi"]
    table = experiments.compare(model, x, asked, view=data.view, holdout=0.0, steps=30, seed=0)
    assert [row.evaluation.units for row in table.rows] == [20] * 3
    held = experiments.compare(model, x, asked[:2], view=data.view, holdout=0.2, steps=10, seed=0)
    assert held.units == 4


def test_no_two_purposes_share_a_seed() -> None:
    assert len({int(stream) for stream in Stream}) == len(Stream.__members__)
    assert all(stream > 0 for stream in Stream)


def test_validation_counts_units_whatever_entry_comes_first() -> None:
    def program(x: dict[str, Tensor]) -> None:
        with pyro.plate("rows", len(x["y"])):
            z = pyro.sample("z", dist.Normal(x["y"].new_zeros(()), 1.0))
            pyro.sample("y", dist.Normal(z, x["sigma"]), obs=x["y"])

    y, sigma = rows(60, 1)[:, 0], torch.tensor(0.5, dtype=torch.double)
    elbos = [
        experiments.fit(program, "mean_field:encoder", x, steps=40, validation=0.2, seed=0).elbo
        for x in ({"sigma": sigma, "y": y}, {"y": y, "sigma": sigma})]
    assert elbos[0] == elbos[1]


@pytest.mark.long
def test_models_are_scored_in_evaluation_mode() -> None:
    x = (rows(40, 4) > 0).double()
    network = nn.Sequential(nn.Linear(2, 16), nn.Dropout(0.5), nn.Linear(16, 4)).double()
    model = zoo.build("vae", x, latent=2, network=network)
    guide = guides.build("prior", model, x)
    first = experiments.evaluate(model.train(), guide, x, draws=64, seed=0)
    second = experiments.evaluate(model.eval(), guide, x, draws=64, seed=0)
    assert first.elbo.value == second.elbo.value
    assert first.evidence.value == second.evidence.value


def test_the_amortisation_gap_keeps_its_error_where_noise_hides_it() -> None:
    with seeded(0):
        noise = torch.randn(200, 5, dtype=torch.double)
        zero = torch.zeros_like(noise)
        encoder = LogWeights(noise, zero, zero, zero - torch.tensor(200.0).log(), False)
        free = LogWeights(noise - 0.001 + 0.1 * torch.randn(200, 5, dtype=torch.double), zero, zero, encoder.log_measure, False)
    found = experiments.Evidence("exact", 1.0, 0.0, 1.0, 1.0, torch.zeros(5))
    gap = split(encoder, free, found).amortisation
    assert gap.value == gap.lower == 0.0
    assert gap.se > 0
    assert gap.upper is not None
    assert 0 < gap.upper < 2 * gap.se


def test_warm_up_ends_before_the_run_and_counts_for_nothing() -> None:
    model = zoo.build("linear_vae", WINE)
    with pytest.raises(zoo.ZooError, match="expected warm_up to end before the run's 50 steps; got 50; lower it"):
        experiments.fit(model, "mean_field:encoder", WINE, steps=50, warm_up=50)
    done = experiments.fit(model, "mean_field:encoder", WINE, steps=60, warm_up=55)
    assert not done.converged  # five values of the bound itself show no settling


def test_states_hold_running_statistics() -> None:
    network = nn.Sequential(nn.Linear(13, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)).double()
    model = zoo.build("linear_vae", WINE)
    guide = guides.build("mean_field:encoder", model, WINE, network=network)
    with pytest.warns(zoo.ZooWarning, match="the start is kept"):
        done = experiments.fit(model, guide, WINE, steps=5, learning_rate=1e300)
    assert done.states is not None
    assert torch.equal(network[1].running_mean, torch.zeros(8, dtype=torch.double))
    done.states.use("last")
    assert not torch.equal(network[1].running_mean, torch.zeros(8, dtype=torch.double))


def test_quadrature_leaves_large_networks_to_the_bracket() -> None:
    x = zoo.dataset("digits", "images", binarise="threshold").tensor[:40]
    model = zoo.build("vae", x, latent=2, hidden=(32,))
    assert experiments.evidence(model, x, guides.build("prior", model, x), draws=64).kind == "estimated"


def test_a_convolutional_decoder_starts_at_the_level_of_the_images() -> None:
    x = zoo.dataset("digits", "images", binarise="threshold").tensor
    model = zoo.build("vae", x, network="conv", hidden=(8, 4), seed=0)
    start = model.decode(torch.zeros(1, 8, dtype=torch.double)).mean.detach()
    assert float((start.mean() - x.mean()).abs()) < 0.1


# Bad input


def test_a_discrete_guide_for_a_continuous_latent_is_refused() -> None:
    model = zoo.build("linear_vae", WINE)

    def guide(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Bernoulli(torch.full((2,), 0.5).to(x)).to_event(1))

    with pytest.raises(zoo.ZooError, match="expected a density at site 'z' of 'guide', whose latent is continuous; got a"):
        experiments.evaluate(model, guide, WINE)


def test_a_module_serves_one_seed() -> None:
    class Own(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(2, dtype=torch.double))

        def forward(self, x: Tensor) -> None:
            with pyro.plate("rows", len(x)):
                pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))

    model = zoo.build("linear_vae", WINE)
    with pytest.raises(zoo.ZooError, match="expected a guide that each seed can start anew; got 'Own', which is built"):
        experiments.fit_seeds(model, Own(), WINE, seeds=range(2), steps=2)
    assert len(experiments.fit_seeds(model, Own(), WINE, seeds=[1], steps=2, method="svi")) == 1


class Centred(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        y = torch.cat([z, z], 1)
        return y - y.mean(0)


class Noisy(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([z, z], 1) + torch.randn(len(z), 4).to(z)


class Integers(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([z, z], 1).long()


@pytest.mark.parametrize(("network", "text"), [
    (Centred(), "expected a network of vae that answers each unit by itself"),
    (Noisy(), "expected a network of vae that gives the same answer twice in evaluation mode"),
    (Integers(), "of torch.int64 for 2 units; change its last layer")])
def test_networks_that_are_no_function_of_the_unit_are_refused(network: nn.Module, text: str) -> None:
    x = (rows(20, 4) > 0).double()
    with pytest.raises(zoo.ZooError, match=text):
        zoo.build("vae", x, latent=2, network=network)


def test_sizes_that_no_machine_holds_are_refused() -> None:
    x = torch.tensor([[0.0, 1e9], [3.0, 2.0]], dtype=torch.double)
    with pytest.raises(zoo.ZooError, match="expected counts up to 1023 for likelihood categorical"):
        zoo.build("vae", x, likelihood="categorical")
    with pytest.raises(zoo.ZooError, match="rescale them"):
        zoo.build("linear_vae", 1e200 * rows())


def test_pyro_guides_train_a_theta_of_their_own_on_all_units() -> None:
    x = (rows(20, 4) > 0).double()
    model = zoo.build("vae", x, latent=2, hidden=(4,))
    table = experiments.compare(model, x, ["mean_field:encoder", AutoNormal], train_model=True, steps=5)
    assert table.units == 20
    with pytest.raises(zoo.ZooError, match="expected no holdout for guides that are built for all of x"):
        experiments.compare(model, x, ["mean_field:encoder", AutoNormal], train_model=True, holdout=0.2, steps=5)


@pytest.mark.parametrize("name", ["linear_vae", "flow"])
def test_data_that_the_model_was_not_built_on_is_named(name: str) -> None:
    model = zoo.build(name, rows())
    with pytest.raises(zoo.ZooError, match=f"expected data that the program of {name} runs on; got x torch.float64"):
        experiments.evaluate(model, "exact", rows(40, 2))


def test_what_is_no_tensor_is_named() -> None:
    with pytest.raises(zoo.ZooError, match="expected a tensor of shape"):
        zoo.build("vae", None)


@pytest.mark.parametrize(("options", "text"), [
    ({"learning_rate": "0.1"}, "expected learning_rate as a number; got '0.1'"),
    ({"batch_size": 2.5}, "expected batch_size as a whole number from 1; got 2.5"),
    ({"clip": "a"}, "expected clip as a number"),
    ({"warm_up": float("nan")}, "expected warm_up as a whole number"), ({"patience": None}, "expected patience as a whole"),
    ({"validation": "a tenth"}, "expected validation as a number"), ({"objective": None}, "expected objective as text"),
    ({"view": 3}, "expected view as a function"), ({"steps": True}, "expected steps as a whole number")])
def test_options_of_the_wrong_type_are_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(zoo.ZooError, match=text):
        experiments.fit(zoo.build("linear_vae", WINE), "mean_field:encoder", WINE, **options)


def test_exact_draws_of_another_shape_are_an_error_and_no_remark() -> None:
    x = (rows(20, 4) > 0).double()
    model = zoo.build("vae", x, latent=3, hidden=(4,))
    with pytest.raises(zoo.ZooError, match="expected posterior draws of shape"):
        experiments.evidence(model, x, guides.build("prior", model, x), exact=torch.zeros(3, 1, 4))


# The command


@pytest.mark.long
def test_figures_of_guides_that_train_their_own_theta(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"compare ppca --data iris -g mean_field -g full_rank --train-model --steps 30 --out {tmp_path}"
    assert run(command.split()) == 0
    assert (tmp_path / "figures" / "forest.png").exists()
    assert "could not be drawn" not in capsys.readouterr().err


def test_a_holdout_of_one_unit_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "eight_schools", "--holdout", "0.5"]) == 2
    assert "error: expected no --holdout for eight_schools, whose latents all rows share" in capsys.readouterr().err


def test_a_summary_is_of_all_rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def said(job: Job, **named: Any) -> None:
        raise zoo.ZooError(f"{len(job.data.x)} rows, {job.holdout} held out")

    monkeypatch.setattr(Job, "fit_comparison", said)
    assert run(["summary", "flow_prior", "--data", "iris", "-g", "mean_field:encoder"]) == 2
    assert "150 rows, 0.0 held out" in capsys.readouterr().err


def test_draws_of_the_fit_and_of_the_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    command = "fit linear_vae -g mean_field:encoder --objective iwae --train-draws 1 --steps 5"
    assert run(command.split()) == 2
    assert "expected 2 or more draws with objective iwae" in capsys.readouterr().err


def test_samples_keep_their_shape_where_columns_are_alike_alone() -> None:
    from experiments.reporting.pictures import samples

    for data, model, aspect in (("two_moons", "gmm", 1.0), ("faithful", "gmm", "auto")):
        x = zoo.dataset(data).tensor
        figure = samples(experiments.compare(zoo.build(model, x), x, ["exact"]))
        assert [axes.get_aspect() for axes in figure.axes] == [aspect] * 2


def test_a_posterior_that_is_a_point_has_no_intervals_to_draw() -> None:
    import arviz_base as azb

    # Of 0.1 and its like, five hundred equal numbers have a standard deviation above 0.
    point = np.tile(np.array([0.1, 1.1, 2.3]), (1, 500, 1))
    assert (point.std((0, 1)) > 0).any()
    for figure in (figures.forest, figures.pair):
        with pytest.raises(zoo.ZooError, match="expected continuous variables"):
            figure(azb.from_dict({"posterior": {"z": point}}))

"""The recommendation: the cheapest guide that is near enough, and what the next would gain."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import experiments
import zoo
from experiments.cli import run
from experiments.comparison.ladder.rungs import LADDER, Rung, Terrain, rungs
from experiments.reporting.ladder import gaps_against_seconds
from experiments.samplers.hmc import Target
from experiments.samplers.posterior import arrived
from guides.spec import parse
from zoo.errors import ZooError
from zoo.registry import Facts

X = torch.tensor([2.0, -1.0], dtype=torch.double)


def pair_of(correlation: float) -> object:
    """Return a program of two latents whose posterior is normal with this correlation."""
    def program(x: Tensor) -> None:
        cov = x.new_tensor([[1.0, correlation], [correlation, 1.0]])
        z = pyro.sample("z", dist.MultivariateNormal(x.new_zeros(2), covariance_matrix=cov))
        pyro.factor("x", (x * z).sum())
    return program


def independent_gap(correlation: float) -> float:
    """Return KL(q ‖ p) of the best independent normals: −½ log(1 − ρ²)."""
    return -0.5 * math.log(1 - correlation**2)


def shifted(x: Tensor) -> None:
    """A posterior that no normal is near: two modes, far apart."""
    z = pyro.sample("z", dist.Normal(x.new_zeros(()), 3.0))
    pyro.sample("x", dist.Normal(z.square(), 1.0), obs=x)


# -- the ladder ----------------------------------------------------------------------------------------------------------


def test_rungs_can_be_written_and_each_has_a_ground() -> None:
    grounds = [
        Terrain(Facts("continuous", units, exact, local=local), size, 1 if units == "dataset" else 50, amortised)
        for units, local in (("dataset", False), ("dataset", True), ("rows", False)) for exact in (False, True)
        for size in (1, 10, 500) for amortised in (False, True) if units == "rows" or not amortised]
    for rung in LADDER:
        assert parse(rung.written("mean_field")).text
        assert any(rung.suits(ground) for ground in grounds), rung


def test_a_model_that_knows_its_posterior_has_one_rung() -> None:
    assert [rung.text for rung in rungs(Terrain(Facts("discrete", "rows", True), 1, 272, False))] == ["exact"]


def test_large_latents_have_low_rank_in_place_of_all_correlations() -> None:
    texts = [rung.text for rung in rungs(Terrain(Facts("continuous", "dataset", False), 500, 1, False))]
    assert "low_rank(8)" in texts
    assert not any(text.startswith("full_rank") for text in texts)


def test_networks_have_a_ladder_of_their_own() -> None:
    texts = [rung.text for rung in rungs(Terrain(Facts("continuous", "rows", False), 8, 500, True))]
    assert texts[0] == "mean_field:encoder"
    assert "mean_field:semi" in texts
    assert "mean_field" not in texts


# -- the climb -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("correlation", "chosen"), [(0.2, "mean_field"), (0.9, "full_rank")])
def test_the_first_rung_that_is_near_enough_is_chosen(correlation: float, chosen: str) -> None:
    found = experiments.recommend(
        pair_of(correlation), X, rungs=["mean_field", "full_rank", "draws(BEST)@nuts"], progress=False)
    assert found.step.text == chosen
    assert found.guide is found.fit.guide
    gap = found.step.gap
    right = independent_gap(correlation) if chosen == "mean_field" else 0.0
    assert gap.lower - 1e-6 <= right <= gap.upper + 1e-6
    assert gap.upper <= 0.1
    assert found.table.guide(chosen) is found.guide


def test_the_sentence_says_what_the_next_rung_would_gain_at_most() -> None:
    found = experiments.recommend(pair_of(0.2), X, rungs=["mean_field", "full_rank"], progress=False)
    assert found.sentence == (
        f"mean_field is {found.step.gap.lower:.3f} … {found.step.gap.upper:.3f} nats from the posterior; full_rank would gain "
        f"at most {found.step.gap.upper:.2g}; stop here") or "full_rank would gain at most" in found.sentence
    assert found.sentence in " ".join(str(found).split())


def test_a_laxer_tolerance_stops_earlier() -> None:
    lax = experiments.recommend(pair_of(0.9), X, rungs=["mean_field", "full_rank"], tolerance=1.0, progress=False)
    assert lax.step.text == "mean_field"
    assert lax.step.gap.upper >= independent_gap(0.9) - 1e-6


def test_where_no_rung_will_do_the_nearest_is_named() -> None:
    found = experiments.recommend(pair_of(0.9), X, rungs=["full_rank@laplace", "mean_field"], tolerance=1e-4, progress=False)
    assert found.chosen is None or found.step.text == "full_rank@laplace"
    only = experiments.recommend(pair_of(0.9), X, rungs=["mean_field"], tolerance=0.01, progress=False)
    assert only.chosen is None
    assert only.sentence.startswith("no rung is known to be within 0.01 nats: mean_field comes nearest")
    assert only.to_dict()["chosen"] is None


@pytest.mark.parametrize(("left_out", "chosen"), [((), "draws(full_rank)@pathfinder"), (("pathfinder",), "mixture(4)")])
def test_modes_that_normals_miss_are_met_by_what_holds_several(left_out: tuple[str, ...], chosen: str) -> None:
    """log p(x) is known by quadrature: half the mass is in a mode that no normal holds, so gaps of log 2 at least."""
    x = torch.tensor(16.0, dtype=torch.double)
    texts = [rung.text for rung in rungs(Terrain.of(zoo.as_model(shifted), x))]
    texts = [text for text in texts if not (left_out and text.endswith(left_out))]
    found = experiments.recommend(shifted, x, rungs=texts, progress=False)
    assert found.step.text == chosen
    for step in found.steps[:-1]:
        assert step.gap.upper > math.log(2)
        assert step.gap.lower > 0.6


def test_a_rung_starts_from_the_highest_below_and_never_ends_lower() -> None:
    x = zoo.dataset("eight_schools").x
    found = experiments.recommend(zoo.build("eight_schools", x), x, progress=False)
    elbos = [step.row.evaluation.elbo for step in found.steps if step.row.fit.guide.density]
    full = [step.row.evaluation.elbo.value for step in found.steps if step.text in ("full_rank", "full_rank@pathfinder")]
    assert full == sorted(full)
    assert elbos[-1].value >= max(elbo.value for elbo in elbos[:-1]) - 4 * elbos[-1].se
    assert found.step.gap.upper <= 0.1
    assert found.table.cost.fit_evaluations > 0


def test_quantities_take_the_place_of_the_gap() -> None:
    """Of correlated normals independent ones have the right means, and deviations of √(1 − ρ²) what they should be."""
    found = experiments.recommend(
        pair_of(0.9), X, rungs=["mean_field", "full_rank"], quantities=["z[0]"], progress=False)
    assert found.step.text == "full_rank"
    assert found.sentence == "z[0] by full_rank is within 0.1 sd; stop here"
    with pytest.raises(ZooError, match="expected quantities of program; got w; it has z"):
        experiments.recommend(pair_of(0.9), X, rungs=["full_rank"], quantities=["w"], progress=False)


def test_a_refused_rung_does_not_end_the_climb() -> None:
    found = experiments.recommend(pair_of(0.9), X, rungs=["mean_field:encoder", "full_rank"], progress=False)
    assert found.step.text == "full_rank"
    assert "latents that all rows share" in found.refused[0]


def test_theta_is_fitted_first() -> None:
    x = zoo.dataset("wine", standardise=True).x
    model = zoo.build("ppca", x)
    found = experiments.recommend(model, x, progress=False)
    assert found.step.text == "exact"
    assert found.table.theta is not None
    assert found.table.theta.converged


@pytest.mark.parametrize(("options", "message"), [
    ({"tolerance": 0.0}, "expected a tolerance above 0 nats"), ({"tolerance": -1.0}, "tolerance"),
    ({"effort": "none"}, "expected an effort that can tell a gap"), ({"effort": "much"}, "expected effort as one of"),
    ({"stepz": 3}, "unknown option 'stepz'"), ({"rungs": ["full_rnk"]}, "did you mean 'full_rank'"),
])
def test_what_can_not_be_asked_for(options: dict[str, object], message: str) -> None:
    with pytest.raises(ZooError, match=message):
        experiments.recommend(pair_of(0.5), X, progress=False, **options)


def test_the_figure_has_a_point_for_each_rung() -> None:
    found = experiments.recommend(pair_of(0.9), X, rungs=["mean_field", "full_rank"], progress=False)
    axes = gaps_against_seconds(found).axes[0]
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["1  mean_field", "2  full_rank, near enough", "tolerance, 0.1"]
    assert axes.get_xlabel() == "seconds since the start"


def test_the_rung_that_is_written_where_nothing_is_known_of_it() -> None:
    assert Rung("draws(BEST)@ais", "x").written("full_rank") == "draws(full_rank)@ais"


# -- numbers that may not be wrong ---------------------------------------------------------------------------------------


def two_roots(x: Tensor) -> None:
    """z² is observed: two modes, of which any normal holds one."""
    z = pyro.sample("z", dist.Normal(x.new_zeros(()), 5.0))
    pyro.sample("x", dist.Normal(z.square(), 0.3), obs=x)


def test_a_quantity_is_not_right_where_a_mode_is_missed() -> None:
    """The mean of z is 0, its deviation 5: a normal at one root has weights that are fine, and both wrong."""
    x = torch.tensor(25.0, dtype=torch.double)
    found = experiments.recommend(two_roots, x, quantities=["z"], progress=False)
    assert found.step.text != "full_rank@laplace"
    if found.chosen is not None:
        draws = found.guide.posterior(x).sample((4096,))
        assert abs(float(draws.mean())) < 1.0
        assert float(draws.std()) == pytest.approx(5.0, rel=0.1)


def spike_and_slab(x: Tensor) -> None:
    """Half the mass is in a narrow mode that chains of the wide one hardly meet."""
    narrow, wide = dist.Normal(x.new_zeros(3), 0.1).to_event(1), dist.Normal(x.new_full((3,), 6.0), 2.0).to_event(1)
    z = pyro.sample("z", dist.Normal(x.new_zeros(3), 100.0).to_event(1))
    log_p = torch.logaddexp(narrow.log_prob(z), wide.log_prob(z)) - math.log(2)
    pyro.factor("x", log_p - dist.Normal(0.0, 100.0).log_prob(z).sum(-1))


def test_chains_do_not_agree_where_some_stand_in_a_narrow_mode() -> None:
    x = torch.zeros(1, dtype=torch.double)
    model = zoo.as_model(spike_and_slab)
    target = Target((lambda z: model.log_joint(x, z),))
    slab = target.at(torch.full((8, 1, 3), 6.0, dtype=torch.double))
    spike = target.at(torch.zeros(2, 1, 3, dtype=torch.double))
    still = spike.z[None].expand(10, -1, -1, -1)
    assert not bool(arrived(target, spike, still, slab).any())
    assert bool(arrived(target, spike, still, slab, moving=False).all())


@pytest.mark.parametrize("names", [["mu", "nope"], ["theta[3]", "theta[99]"]])
def test_each_quantity_has_to_exist(names: list[str]) -> None:
    x = zoo.dataset("eight_schools").x
    with pytest.raises(ZooError, match=re.escape(f"got {names[1]}; it has mu, tau")):
        experiments.recommend(zoo.build("eight_schools", x), x, quantities=names, progress=False)


@pytest.mark.parametrize("options", [
    {"rungs": []}, {"rungs": ["draws(BEST)@psis"]}, {"seed": 10**20}, {"seed": 1.5}, {"rungs": [3]},
    {"rungs": ["mean_field:encoder"]}])
def test_what_can_not_be_climbed_is_an_error_of_one_line(options: dict[str, object]) -> None:
    with pytest.raises(ZooError) as error:
        experiments.recommend(pair_of(0.5), X, progress=False, **options)
    assert "\n" not in str(error.value)


# -- the command ---------------------------------------------------------------------------------------------------------

PROGRAM = """
import pyro, pyro.distributions as dist
import pandas as pd

def line(a, y=None):
    m, b = pyro.sample("m", dist.Normal(0.0, 10.0)), pyro.sample("b", dist.Normal(0.0, 10.0))
    with pyro.plate("rows", len(a)):
        pyro.sample("y", dist.Normal(m + b * a, 1.0), obs=y)

broken = 3
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(PROGRAM)
    (tmp_path / "words.csv").write_text("a;y\n0.0;low\n1.0;high\n")
    (tmp_path / "head.csv").write_text("a,y\n")
    (tmp_path / "rows.csv").write_text("a,y\n0.0,1.0\n1.0,3.1\n2.0,4.9\n3.0,7.2\n")
    return tmp_path


def test_a_program_of_ones_own_has_its_columns_by_name(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recommend", f"{own}/mine.py:line", "--data", f"{own}/rows.csv", "--json", "--out", str(own / "out")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chosen"] == "full_rank@laplace"  # the posterior is normal
    assert found["comparison"]["guides"][0]["kl_gap"]["upper"] < 0.01
    assert json.loads((own / "out" / "recommendation.json").read_text()) == found
    assert (own / "out" / "gaps.png").stat().st_size > 1000


@pytest.mark.parametrize(("words", "message"), [
    (["mine.py:lin", "--data", "rows.csv"], "did you mean 'line'?"),
    (["mine.py:broken", "--data", "rows.csv"], "expected a Pyro program 'broken'"),
    (["mine.py:line"], "expected a file of data for a program of your own"),
    (["mine.py:line", "--data", "none.csv"], "got no such file; check the path"),
    (["mine.py:line", "--data", "head.csv"], "expected rows in"),
    (["mine.py:line", "--data", "rows.csv", "--steps", "0"], "steps"),
    (["mine.py:line", "--data", "rows.csv", "--out", "rows.csv"], "expected a directory to write to"),
    (["mine.py:line", "--data", "rows.csv", "--amortised"], "latents that all rows share"),
    (["mine.py:line", "--data", "mine.py"], "expected a file ending in .csv"),
    (["other.py:line", "--data", "rows.csv"], "expected a file of Python"),
    (["mine.py:line", "--data", "rows.csv", "--standardise"], "an option for a program that reads the data as it is"),
    (["mine.py:line", "--data", "rows.csv", "--components", "3"], "an option for a program that reads the data as it is"),
])
def test_bad_words_are_one_line(
    own: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str],
) -> None:
    given = [f"{own}/{word}" if "." in word and not word.startswith("-") else word for word in words]
    assert run(["recommend", *given]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert len(said.err.strip().splitlines()) == 1


@pytest.mark.parametrize(("code", "message"), [
    ("import sys\nsys.exit(0)", "got an exit (0); leave it out"),
    ("import sys\ndef line(a):\n    sys.exit(3)", "got an exit (3); leave it out"),
])
def test_an_exit_is_an_error(own: Path, code: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "bad.py").write_text(code)
    assert run(["recommend", f"{own}/bad.py:line", "--data", f"{own}/rows.csv"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err


def test_what_a_program_imports_late_and_prints_does_no_harm(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "aside.py").write_text("SCALE = 1.0")
    (own / "late.py").write_text("from __future__ import annotations\nfrom dataclasses import dataclass\nprint('loaded')\n" + (
        "@dataclass\nclass Scales:\n    wide: float = 10.0\n") + PROGRAM.replace(
            "    m, b", "    from aside import SCALE\n    m, b").replace("b * a, 1.0)", "b * a, SCALE)"))
    before = list(sys.path)
    assert run(["recommend", f"{own}/late.py:line", "--data", f"{own}/rows.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chosen"] == "full_rank@laplace"
    assert sys.path == before


def test_a_file_that_fails_is_told_of(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "bad.py").write_text("raise RuntimeError('no luck')")
    assert run(["recommend", f"{own}/bad.py:line", "--data", f"{own}/rows.csv"]) == 2
    assert "got RuntimeError: no luck; mend it" in capsys.readouterr().err

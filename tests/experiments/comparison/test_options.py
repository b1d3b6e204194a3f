"""Guides by name in a comparison, with options of their own fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

import experiments
import guides
import zoo
from zoo.errors import ZooError
from zoo.model import Model

WINE = zoo.dataset("wine", standardise=True).tensor
SCHOOLS = zoo.dataset("eight_schools").x
ENCODER = "mean_field:encoder(hidden=(8,))"


def fixed_model() -> Model:
    """A model of rows whose θ is not fitted, so that a comparison fits the guides alone."""
    model = zoo.build("ppca", WINE[:60])
    for p in model.parameters():
        p.requires_grad_(False)
    return model


class Told(experiments.Callback):
    """Keeps what each fit was called, and by what objective and how many steps it ran."""

    def __init__(self) -> None:
        self.fits: dict[str, tuple[str, int]] = {}

    def on_step(self, now: experiments.Moment) -> None:
        self.fits[now.name] = (now.objective, now.step)


def test_rows_have_their_names_and_options_of_their_own() -> None:
    told = Told()
    table = experiments.compare(
        fixed_model(), WINE[:60], steps=20, learning_rate=0.02, batch_size=30, effort="none", callbacks=[told], guides={
            "plain": ENCODER, "iwae": (ENCODER, {"objective": "iwae", "draws": 4}), "longer": (ENCODER, {"steps": 30})})
    assert [row.evaluation.guide for row in table.rows] == ["plain", "iwae", "longer"]
    assert told.fits == {"plain": ("ELBO", 20), "iwae": ("IWAE-4 bound", 20), "longer": ("ELBO", 30)}
    assert table.guide("iwae") is table.rows[1].fit.guide
    assert table.guide("iwae").written == ENCODER
    assert "iwae" in str(table)
    assert list(table.to_frame().index) == ["plain", "iwae", "longer"]


def test_a_row_s_fit_is_that_of_fit_with_its_options() -> None:
    options = {"objective": "iwae", "draws": 4, "steps": 15, "learning_rate": 0.03}
    table = experiments.compare(fixed_model(), WINE[:60], guides={"own": (ENCODER, options)}, effort="none", steps=3)
    alone = experiments.fit(fixed_model(), ENCODER, WINE[:60], **options)
    for one, other in zip(table.guide("own").parameters(), alone.guide.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_built_guides_and_pyro_s_own_take_options() -> None:
    model = fixed_model()
    built = guides.build(ENCODER, model, WINE[:60])
    told = Told()
    table = experiments.compare(model, WINE[:60], callbacks=[told], effort="none", guides={
        "ours": (built, {"steps": 7}), "pyro": (AutoNormal, {"steps": 9, "method": "svi"}),
        "pyro again": (AutoNormal, {"steps": 11})})
    assert {name: steps for name, (_, steps) in told.fits.items()} == {"ours": 7, "pyro": 9, "pyro again": 11}
    assert table.guide("ours") is built


def test_names_do_not_hide_what_a_guide_is() -> None:
    """A free guide starts at its family's encoder, and an encoder's gap is split, whatever they are called."""
    rows = experiments.compare(
        fixed_model(), WINE[:60], guides={"a": (ENCODER, {"steps": 20}), "b": "mean_field"}, steps=20).rows
    plain = experiments.compare(fixed_model(), WINE[:60], guides=[ENCODER, "mean_field"], steps=20).rows
    assert [row.evaluation.guide for row in rows] == ["a", "b"]
    assert rows[0].parts.keys() == {"approximation", "amortisation"}
    assert [row.evaluation.elbo.value for row in rows] == [row.evaluation.elbo.value for row in plain]
    assert rows[1].fit.guide.written == "mean_field"


def test_theta_is_fitted_with_a_row_where_its_name_is_said() -> None:
    told = Told()
    table = experiments.compare(
        zoo.build("vae", WINE[:60], likelihood="normal", latent=2, hidden=(8,)), WINE[:60], train_with="iwae", effort="none",
        guides={"iwae": (ENCODER, {"objective": "iwae", "draws": 3})}, steps=10, callbacks=[told])
    assert told.fits["theta"] == told.fits["iwae"] == ("IWAE-3 bound", 10)
    assert table.theta is not None
    told = Told()
    experiments.compare(
        zoo.build("vae", WINE[:60], likelihood="normal", latent=2, hidden=(8,)), WINE[:60], effort="none",
        guides={"iwae": (ENCODER, {"objective": "iwae", "draws": 3})}, steps=10, callbacks=[told])
    assert told.fits["theta"] == ("ELBO", 10)


def test_a_theta_of_its_own_is_fitted_by_a_row_s_options() -> None:
    told = Told()
    experiments.compare(
        zoo.build("vae", WINE[:60], likelihood="normal", latent=2, hidden=(8,)), WINE[:60], train_model=True, effort="none",
        guides={"enc": (ENCODER, {"steps": 5}), "free": ("mean_field", {"steps": 6, "method": "svi"})}, callbacks=[told])
    assert {name: steps for name, (_, steps) in told.fits.items()} == {"enc": 5, "theta of free": 6, "free": 6}


def test_a_journal_keeps_rows_apart(tmp_path: Path) -> None:
    def compared() -> experiments.Comparison:
        return experiments.compare(
            fixed_model(), WINE[:60], effort="none", journal=experiments.Journal(tmp_path), guides={
                "short": (ENCODER, {"steps": 5}), "long": (ENCODER, {"steps": 9})})

    first, again = compared(), compared()
    assert [row.fit.steps for row in first.rows] == [row.fit.steps for row in again.rows] == [5, 9]
    assert [row.evaluation.elbo.value for row in first.rows] == [row.evaluation.elbo.value for row in again.rows]


@pytest.mark.parametrize(("given", "message"), [
    ({"a": ("full_rank", {"batch_size": 3})}, "expected method svi with batch_size; got fixed_draws for 'full_rank'; leave"),
    ({"a": ("full_rank", {"method": "laplace", "draws": 3})}, "expected method fixed_draws or svi with draws; got laplace"),
    ({"a": ("full_rank@laplace", {"draws": 3})}, "expected method fixed_draws or svi with draws; got laplace"),
    ({"a": (AutoNormal, {"accelerate": True})}, "expected method em with accelerate; got svi for 'AutoNormal'"),
    ({"a": ("full_rank", {"stepps": 3})}, "unknown option 'stepps' of fit; did you mean 'steps'?"),
    ({"a": ("full_rank", {"method": "emm"})}, "unknown method 'emm'"),
    ({"a": ("full_rank", {"method": "em"})}, "method em"),
    ({"a": ("full_rank", {"steps": 0})}, "expected steps"),
    ({"a": ("full_rank", 3)}, "expected a guide, or a pair of a guide and options of its fit, for row 'a'; got ('f"),
    ({"a": 3}, "expected a guide, or a pair of a guide and options of its fit, for row 'a'; got 3"),
    ({"theta": "full_rank"}, "expected a name for each guide, other than theta, the fit of the model; got 'theta'"),
    ({"": "full_rank"}, "expected a name for each guide, other than theta"),
    ({}, "expected at least one guide to compare; got none"),
    ([("full_rank", {"steps": 3})], "options go with a name, guides={'name': (guide, options)}")])
def test_wrong_options_are_refused_before_anything_is_fitted(given: Any, message: str) -> None:
    told = Told()
    if isinstance(given, dict) and given:
        given = {"first": "mean_field", **given}
    with pytest.raises(ZooError) as caught:
        experiments.compare(zoo.build("eight_schools", SCHOOLS), SCHOOLS, guides=given, steps=2, callbacks=[told])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not told.fits


def test_guides_by_name_may_come_last() -> None:
    table = experiments.compare(zoo.build("eight_schools", SCHOOLS), SCHOOLS, {"normal": "mean_field"}, effort="none")
    assert [row.evaluation.guide for row in table.rows] == ["normal"]


def test_a_free_guide_beside_its_encoder_keeps_its_method() -> None:
    asked = ["full_rank:encoder(hidden=(8,))", "full_rank@laplace"]
    rows = experiments.compare(fixed_model(), WINE[:60], asked, steps=5, effort="none").rows
    assert [row.evaluation.guide for row in rows][1] == "full_rank@laplace"
    assert rows[1].fit.method == "laplace"


def test_a_function_that_is_called_like_a_family_is_none() -> None:
    def mean_field(x: torch.Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("loc", x.new_zeros(2)), 1.0).to_event(1))

    rows = experiments.compare(fixed_model(), WINE[:60], [ENCODER, mean_field, "mean_field"], steps=5, effort="none").rows
    assert [row.fit.guide.written for row in rows] == [ENCODER, "", "mean_field"]


def test_options_that_are_no_words_are_refused() -> None:
    x = zoo.dataset("iris").x
    with pytest.raises(zoo.ZooError, match="expected a guide, or a pair of a guide and options of its fit, for row 'a'"):
        experiments.compare(zoo.build("ppca", x), x, guides={"a": ("mean_field", {1: 2})})


def test_a_built_guide_stands_in_one_row() -> None:
    """In two it would have one φ, that of the later fit, under both names."""
    x = zoo.dataset("iris").x
    model = zoo.build("ppca", x)
    guide = guides.build("mean_field", model, x)
    with pytest.raises(zoo.ZooError, match="expected each built guide once; got 'mean_field' for several rows"):
        experiments.compare(model, x, guides={"a": (guide, {"steps": 5}), "b": guide})

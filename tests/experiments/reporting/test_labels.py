"""Only the ELBO is called ELBO, and a line of bounds does not cross log p for noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from torch import Tensor

import experiments
import zoo
from experiments.comparison.compare import fit_one
from experiments.fits.metrics import read_metrics
from experiments.fits.trackers import Metrics, TensorBoard
from experiments.reporting import figures
from experiments.reporting.record import Record
from experiments.reporting.report.charts import chart
from experiments.reporting.report.facts import objective_of, traces_of, trained_elsewhere
from experiments.reporting.smoothing import smoothed


class Seen(experiments.Callback):
    """The objectives and values that a fit tells."""

    def __init__(self) -> None:
        self.said: list[tuple[str, float | None, float | None]] = []

    def on_step(self, now: experiments.Moment) -> None:
        self.said.append((now.objective, now.elbo, now.bound))


@pytest.fixture(scope="module")
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(60, 3)


@pytest.mark.parametrize(("objective", "draws", "label"), [
    ("elbo", None, "ELBO"), ("iwae", None, "IWAE-8 bound"), ("iwae", 5, "IWAE-5 bound"), ("renyi(0.5)", 4, "Rényi(0.5) bound"),
    ("renyi(1)", 4, "ELBO")])
def test_a_fit_names_what_it_maximised(
    x: Tensor, tmp_path: Path, objective: str, draws: int | None, label: str,
) -> None:
    seen, path = Seen(), tmp_path / "metrics.jsonl"
    done = experiments.fit(
        zoo.build("linear_vae", x), "mean_field:encoder", x, objective=objective, draws=draws, steps=12,
        callbacks=[seen, Metrics(path)], journal=tmp_path / "journal")
    assert done.objective == label
    assert done.bound is not None
    assert done.elbo == (done.bound if label == "ELBO" else None)
    assert {name for name, _, _ in seen.said} == {label}
    assert all(elbo == (bound if label == "ELBO" else None) for _, elbo, bound in seen.said)
    rows = read_metrics(path)
    assert [row["bound"] for row in rows] == [bound for _, _, bound in seen.said]
    assert {row["objective"] for row in rows} == {label}
    assert all((row["elbo"] is None) == (label != "ELBO") for row in rows)
    record = Record(tmp_path, "done", {}, metrics=rows)
    assert objective_of(record) == label
    assert len(traces_of(record)[""]) == 12
    again = experiments.fit(
        zoo.build("linear_vae", x), "mean_field:encoder", x, objective=objective, draws=draws, steps=12,
        journal=tmp_path / "journal")
    assert (again.objective, again.bound, again.elbo) == (done.objective, done.bound, done.elbo)


def test_rows_written_before_bounds_had_names_are_read(tmp_path: Path) -> None:
    row = {"fit": "a", "step": 1, "units": 2, "elbo": -3.0, "reconstruction": None, "kl": None, "gradient_norm": None,
           "learning_rate": None, "seconds": 0.1}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    [read] = read_metrics(tmp_path / "metrics.jsonl")
    assert (read["objective"], read["bound"], read["elbo"]) == ("ELBO", -3.0, -3.0)


def test_tensorboard_names_the_bound(x: Tensor, tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    scalars: dict[str, list[float]] = {}
    model = zoo.build("linear_vae", x)
    kept = board._make

    class Writer:
        def __init__(self, *args: object, **options: object) -> None:
            self.inner = kept(*args, **options)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            scalars.setdefault(name, []).append(value)

        def close(self) -> None:
            self.inner.close()

    board._make = Writer
    experiments.fit(model, "mean_field:encoder", x, objective="iwae", draws=5, steps=3, callbacks=[board])
    assert "elbo" not in scalars
    assert len(scalars["IWAE-5 bound"]) == 3


def test_the_figure_says_which_bound(x: Tensor) -> None:
    options = {"objective": "iwae", "draws": 5, "steps": 150}
    table = fit_one(zoo.build("linear_vae", x), x, "mean_field:encoder", range(1), options)
    figure = figures.elbo_trace(table)
    assert figure.axes[0].get_ylabel() == "IWAE-5 bound (nats per unit)"
    assert len(figure.axes[0].collections) == 1  # the band of the noisy line
    pyplot.close(figure)


def test_seeds_are_ranked_by_the_bound(x: Tensor) -> None:
    model = zoo.build("linear_vae", x)
    fits = experiments.fit_seeds(model, "mean_field:encoder", x, seeds=range(3), objective="iwae", steps=20)
    bounds = [done.bound for done in fits]
    assert bounds == sorted(bounds, reverse=True)  # type: ignore[type-var]


def test_a_noisy_line_keeps_below_log_p() -> None:
    """A bound that has come to 0.05 nats below log p, its noise 20 times that."""
    rng = np.random.default_rng(0)
    steps = np.arange(4000)
    truth = -1.0 - 4 * np.exp(-steps / 100)
    noisy = truth + rng.standard_normal(len(steps))
    level = -0.95
    assert (noisy > level).mean() > 0.3
    narrow, wide = smoothed(steps, noisy), smoothed(steps, noisy, level)
    assert narrow.values.max() > level  # a fiftieth is too few: the window grows
    assert wide.values.max() <= level
    assert wide.averaged
    middle = np.interp(wide.at, steps, np.convolve(truth, np.ones(801) / 801, "same"))
    later = wide.at > 1500
    assert (np.abs(wide.values - middle)[later][:-400] < 4 * wide.errors[later][:-400]).all()
    above = smoothed(steps, noisy + 1, level)
    assert above.values.max() > level  # by far more than noise: something is wrong, and shows
    drawn = chart({"a": [(float(a), float(b)) for a, b in zip(steps, noisy, strict=True)]}, level, 400)
    heights = [float(point.split(",")[1]) for point in drawn["lines"][0]["path"].split()]
    assert min(heights) >= 100 - drawn["level"] - 1e-9  # downwards from the top
    assert drawn["lines"][0]["band"]


def test_log_p_of_held_out_units_is_no_limit_to_fits_on_others(tmp_path: Path) -> None:
    """θ and encoders are fitted on the units trained on, whose bound may well lie above log p of the others."""
    x = zoo.dataset("wine", standardise=True).x
    table = experiments.compare(
        zoo.build("linear_vae", x), x, ["mean_field:encoder", "mean_field"], method="svi", steps=200, holdout=0.3,
        progress=False, callbacks=[Metrics(tmp_path / "metrics.jsonl")])
    figure = figures.elbo_trace(table)
    lines = {str(line.get_label()): line for line in figure.axes[0].get_lines()}
    fit = table.rows[0].fit
    _, bound, seconds = zip(*fit.history, strict=True)
    line = lines["mean_field:encoder, units trained on"]
    assert np.array_equal(line.get_ydata(), smoothed(seconds, [value / fit.units for value in bound]).values)
    assert "mean_field" in lines
    assert figure.axes[0].get_ylim()[1] >= float(np.asarray(line.get_ydata())[-1])
    pyplot.close(figure)
    record = Record(tmp_path, "done", {}, comparison=table.to_dict(), metrics=read_metrics(tmp_path / "metrics.jsonl"))
    assert trained_elsewhere(record) == {"theta", "mean_field:encoder"} & {row["fit"] for row in record.metrics}
    drawn = chart(traces_of(record), 0.0, 400, elsewhere=trained_elsewhere(record))
    assert {line["name"] for line in drawn["lines"]} >= {"mean_field:encoder, units trained on", "mean_field"}


def test_a_clean_curve_is_drawn_as_it_is() -> None:
    values = -1 / np.arange(1.0, 500)
    curve = smoothed(range(499), values)
    assert np.array_equal(curve.values, values)
    assert not curve.averaged

"""The report: one page that needs nothing but itself, says honestly what was found, and works in a real browser."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import pytest

from experiments.reporting.record import Record
from experiments.reporting.report import page
from experiments.reporting.report.charts import Scale, chart, thin
from experiments.reporting.report.facts import traces_of
from experiments.reporting.report.page import LARGEST
from experiments.reporting.report.tables import Cell, Table
from experiments.reporting.report.verdicts import Verdict, spread, verdicts

EVIL = """<script>alert(1)</script>"'&<b>"""


def gap(value: float | None, lower: float | None, upper: float | None) -> dict[str, float | None]:
    return {"value": value, "se": 0.4, "lower": lower, "upper": upper}


def row(guide: str, elbo: float | None = -1200.0, **given: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "guide": guide, "elbo": {"value": elbo, "se": 0.5}, "kl_gap": gap(40.0, 38.0, 42.0), "approximation_gap": None,
        "amortisation_gap": None, "reconstruction": {"value": -1000.0, "se": 0.5}, "kl_prior": {"value": 200.0, "se": 0.4},
        "active": None, "khat": 0.4, "ess": 300.0, "draws": 512, "parameters": 20, "log_evidence": evidence(), "method": "svi",
        "steps": 200, "seconds": 1.5, "converged": True, "stopped": ""}
    return {**found, **given}


def evidence(kind: str = "bracketed", upper: float | None = -1159.0) -> dict[str, Any]:
    return {"kind": kind, "value": -1160.0, "se": 0.4, "lower": -1161.0, "upper": upper, "guide": "mean_field",
            "method": "importance"}


def comparison(*rows: dict[str, Any], **given: Any) -> dict[str, Any]:
    found = {
        "model": "vae", "data": "digits", "units": 40, "units_in_all": 200, "holdout": 0.2, "seed": 0, "own_theta": False,
        "log_evidence": evidence(), "simulated": False, "guides": list(rows or (row("mean_field"),)), "theta": {
            "method": "svi", "guide": "mean_field:encoder", "steps": 200, "seconds": 3.0, "converged": True, "stopped": ""}}
    return {**found, **given}


def metrics(fit: str, end: float, steps: int = 60, depth: float = 5000.0, units: int = 1) -> list[dict[str, Any]]:
    return [{"fit": fit, "step": i, "units": units, "elbo": end - depth * math.exp(-i / 5), "reconstruction": None, "kl": None,
             "gradient_norm": None, "learning_rate": None, "seconds": 0.01 * i} for i in range(1, steps + 1)]


def record(name: str = "a", state: str = "done", seed: int = 0, table: dict[str, Any] | None = None, **given: Any) -> Record:
    spec = {
        "command": "compare", "model": "vae", "data": "digits", "guides": ["mean_field:encoder", "mean_field"], "seed": seed,
        "options": {"latent": 8}, "steps": 200, "method": None, "record": {
            "data_sha256": "ab" * 32, "git_commit": "0123456789" * 4, "started": "2025-11-23T18:06:12+00:00", "threads": 1,
            "data_name": "digits", "versions": {"python": "3.12.3", "torch": "2.9.0"}, "code": {"zoo": "cd" * 32}}}
    return Record(Path("runs") / name, state, given.pop("spec", spec), comparison=table, **given)


def full(name: str = "a", seed: int = 0, elbo: float = -1200.0) -> Record:
    split = {"approximation_gap": gap(15.0, 14.0, 16.0), "amortisation_gap": gap(25.0, 24.0, 26.0)}
    rows = row("mean_field:encoder", elbo, **split, khat=None, ess=None), row("mean_field", elbo + 25, khat=0.95, ess=7.0)
    summary = [{"variable": f"z[{i}]", "mean": 0.1 * i, "sd": 0.2, "lower": -0.3, "upper": None} for i in range(70)]
    steps = [*metrics("theta", -4700.0, units=160), *metrics("mean_field:encoder", elbo * 4, units=160),
             *metrics("mean_field", elbo + 25, units=40)]
    return record(name, seed=seed, table=comparison(*rows), metrics=steps, summary=summary)


THETA: dict[str, Any] = {
    "labels": {"column": ["eruptions", "waiting"]},
    "networks": [{"name": "network", "size": 2208, "layers": ["Linear 2 → 32", "Linear 32 → 64"]}],
    "parameters": [
        {"name": "weights", "dims": ["component"], "shape": [2], "values": [0.35587, 0.64413]},
        {"name": "means", "dims": ["component", "column"], "shape": [2, 2], "values": [[2.0364, None], [4.29, 79.97]]},
        {"name": "huge", "dims": ["row"], "shape": [501], "values": None}]}
WORST = {
    "guide": "mean_field", "quantity": "tau", "mean": 2.9, "sd": 2.6, "reference_mean": 3.8, "reference_sd": 3.2,
    "error": -0.275, "error_se": 0.046, "sd_ratio": 0.816, "sd_ratio_se": None}
UNITS = [{
    "variable": "z", "dim": "rows", "units": 272, "counts": {"0": 96.8, "1": 175.2}, "mean_entropy": 0.003,
    "greatest_entropy": 0.693, "most_uncertain": [{"unit": "243", "entropy": 0.5, "probabilities": [0.8, 0.2]}]}]


def learned() -> Record:
    table = comparison()
    return record(units=UNITS, table=table | {
        "theta": table["theta"] | THETA,
        "cost": {"effort": "quick", "fit_evaluations": 299520, "evaluation_evaluations": 129220},
        "quantities": {"reference": "Markov chains", "told": ["'mean_field': mean of tau -0.28 sd off"], "worst": [WORST]}})


def levels(found: list[Verdict], topic: str) -> list[str]:
    return [verdict.level for verdict in found if verdict.topic == topic]


class TestPage:
    def test_it_escapes_whatever_was_given(self) -> None:
        base = full()
        spec = {**base.spec, "model": EVIL, "data": EVIL, "options": {EVIL: EVIL}, "steps": EVIL}
        table = comparison(row(EVIL), model=EVIL, data=EVIL)
        bad = Record(
            Path(f"runs/{EVIL.replace('/', '')}"), "done", spec, comparison=table, metrics=metrics(EVIL, -1.0),
            summary=[{"variable": EVIL, "mean": 0.0, "sd": 1.0, "lower": -1.0, "upper": 1.0}])
        failed = Record(Path("runs/b"), "failed", spec, error=EVIL)
        for text in (page([bad]), page([failed]), page([bad, failed], command=EVIL)):
            assert text.count("<script>") == 1
            assert "<b>&" not in text
            assert "'&<b>" not in text
            assert "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&amp;&lt;b&gt;" in text

    def test_characters_that_steer_are_shown_as_escapes(self) -> None:
        base, evil = full(), "a\x1b[31m\x9b\u202e\x00b"
        table = comparison(row(evil), model=evil, data=evil)
        bad = Record(Path("runs/a"), "done", {**base.spec, "model": evil}, comparison=table, metrics=metrics(evil, -1.0))
        text = page([bad, Record(Path("runs/b"), "failed", base.spec, error=evil)])
        assert re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text) == []
        assert r"a\x1b[31m\x9b\u202e\x00b" in text

    def test_it_needs_nothing_but_itself(self) -> None:
        for text in (page([full()]), page([full("a"), full("b", 1)])):
            assert set(re.findall(r'(?:src|href)="?(data:|#|)', text)) <= {"data:", "#"}
            assert not re.search(r"url\(|@import|https?:", text)
            assert "default-src 'none'" in text

    def test_it_has_all_parts(self) -> None:
        text = page([full()])
        for part in (
                "abababababab…", "latent = 8", "python 3.12.3", "2025-11-23 18:06:12", "zoo run spec.toml",
                "bracketed by importance weights from &#39;mean_field&#39;", "-1160.00</b> [-1161.00, -1159.00] nats",
                "The first 60 of 70 variables", "40 held out of 200"):
            assert part in text, part
        assert text.startswith("<!doctype html>")
        assert text.count("<h1") == 1

    def test_what_was_learned_comes_first_then_costs_and_the_worst_quantities(self) -> None:
        text = page([learned()])
        parts = ["What was learned: θ", "weights (component 2), means (component 2, column 2)", "means eruptions", "0.3559",
                 "network: 2,208 numbers in a network: Linear 2 → 32; Linear 32 → 64", "huge (row 501): too many numbers",
                 "Log evidence", "The evaluation took 129,220 density evaluations (effort quick), the fits 299,520.",
                 "Worst quantities", "mean of tau -0.28 sd off", "Against Markov chains", "-0.275 ± 0.046",
                 "z of 272 rows: mean entropy 0.003 nats", "96.8"]
        places = [text.find(part) for part in parts]
        assert -1 not in places, parts[places.index(-1)]
        assert places == sorted(places)

    def test_each_guides_own_theta_has_its_title(self) -> None:
        one = THETA | {"labels": {}}
        text = page([record(table=comparison(own_theta=True, theta=None, log_evidence=None, theta_by_guide={EVIL: one}))])
        assert "θ of &#39;&lt;script&gt;" in text
        assert "means 1" in text

    def test_nothing_off_is_said_and_earlier_runs_say_nothing(self) -> None:
        found = {"reference": "the exact posterior", "told": [], "worst": []}
        assert "off by over a tenth of a standard deviation" in page([record(table=comparison(quantities=found))])
        earlier = page([full()])
        assert "Worst quantities" not in earlier
        assert "What was learned" not in earlier
        assert "density evaluations" not in earlier

    def test_evidence_without_a_point_is_an_interval(self) -> None:
        missed = "modes that some guides miss: of 2 found, 'mean_field' holds 1"
        wide = {**evidence("estimated"), "value": None, "remark": missed}
        split = {"approximation_gap": gap(None, 14.0, 16.0), "amortisation_gap": gap(25.0, 24.0, 26.0)}
        failed = "3 of 512 draws could not be evaluated"
        rows = row("mean_field", kl_gap=gap(None, 38.0, 42.0), log_evidence=wide, **split, remark=failed)
        shown = record(table=comparison(rows, log_evidence=wide), metrics=metrics("mean_field", -1200.0, units=40))
        text = page([shown])
        assert "log p(x | θ) in <b>[-1161.00, -1159.00]</b> nats ([-29.025, -28.975] per unit)" in text
        assert "modes that some guides miss: of 2 found" in text
        assert "0.950 … 1.050" in text or "0.95 … 1.05" in text
        found = verdicts(shown)
        assert levels(found, "evidence") == ["caution", "caution"]
        assert [v.text for v in found if v.topic == "draws"] == [f"'mean_field': {failed}"]
        own = page([record(table=comparison(rows, log_evidence=None, own_theta=True))])
        assert "-1161.00 … -1159.00" in own
        assert page([record("a", table=comparison(rows)), record("b", seed=1, table=comparison(rows))])

    def test_numbers_that_are_missing_or_infinite_are_shown(self) -> None:
        lost = row("prior", None, kl_gap=gap(None, None, None), reconstruction={"value": None, "se": None})
        text = page([record(table=comparison(lost, row("mean_field", kl_gap=gap(40.0, 38.0, None))))])
        assert ">−∞<" in text
        assert ">∞<" in text
        assert "≥ 38.0" in text
        assert not re.search(r">\s*(?:nan|None|inf|-inf)\s*<", text)

    def test_failed_and_unfinished_runs_are_told(self) -> None:
        failed = page([record(state="failed", error="expected a finite ELBO; got nan")])
        assert "expected a finite ELBO; got nan" in failed
        assert "There is no comparison: the run failed" in failed
        unfinished = page([record(state="unfinished", metrics=metrics("theta", -90.0))])
        assert "last seen in fit &#39;theta&#39; at step 60" in unfinished
        assert "ELBO, nats per unit<" in unfinished

    def test_nothing_to_report_on_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="expected at least one record"):
            page([])

    def test_large_figures_give_way(self, tmp_path: Path) -> None:
        def figure(name: str, svg: int, png: int) -> Path:
            (tmp_path / f"{name}.png").write_bytes(b"p" * png)
            (tmp_path / f"{name}.svg").write_bytes(b"s" * svg)
            return tmp_path / f"{name}.svg"

        base = full()
        figures = {"elbo": figure("elbo", 10, 10), "forest": figure("forest", 450_000, 9), "pair": figure("pair", 390_000, 9),
                   "gone": tmp_path / "gone.svg", **{f"f{i}": figure(f"f{i}", 600_000, 700_000) for i in range(5)}}
        text = page([Record(base.path, "done", base.spec, comparison=base.comparison, metrics=base.metrics, figures=figures)])
        assert len(text.encode()) <= LARGEST
        assert text.count("data:image/png") == 1  # forest
        assert text.count("data:image/svg+xml") == 3  # pair and the first two others: the page draws the ELBO itself
        assert re.search(r"Left out, being too large or unreadable: .*gone\.svg, .*f2\.svg, .*f3\.svg, .*f4\.svg", text)

    def test_a_page_of_many_runs_stays_small(self) -> None:
        text = page([full(f"run-{i}", i) for i in range(100)])
        assert len(text.encode()) <= LARGEST
        assert "60 more runs are in the overview only" in text
        assert "88 runs that ended lowest are not drawn" in text


class TestCharts:
    def test_the_ends_of_fits_can_be_told_apart(self) -> None:
        steps = range(1, 300)
        traces = {"a": [(0.1 * i, -30.0 - 4000 * math.exp(-i / 25)) for i in steps], "b": [(0.1 * i, -30.2) for i in steps]}
        drawn = chart(traces, -29.9, 400)
        assert drawn["y"].high - drawn["y"].low < 4
        ends = [float(line["path"].split(",")[-1]) for line in drawn["lines"]]
        assert ends[1] - ends[0] > 3  # of 100
        assert 0 < ends[0] < ends[1] < 100

    def test_thinning_keeps_extremes(self) -> None:
        trace = [(float(i), math.sin(i)) for i in range(5000)]
        trace[1234], trace[4321] = (1234.0, 50.0), (4321.0, -50.0)
        kept = thin(trace, 400)
        assert len(kept) <= 402
        assert {(1234.0, 50.0), (4321.0, -50.0), trace[0], trace[-1]} <= set(kept)

    def test_noise_is_smoothed_and_a_clean_ascent_is_not(self) -> None:
        clean, noisy = [(float(i), -1.0 / i) for i in range(1, 500)], [(float(i), math.sin(i * i)) for i in range(500)]
        drawn = chart({"clean": clean, "noisy": noisy}, None, 400)
        assert [bool(line["band"]) for line in drawn["lines"]] == [False, True]
        assert drawn["smooth"]

    def test_elbos_are_divided_by_the_units_that_they_were_fitted_on(self) -> None:
        traces = traces_of(full())
        assert traces["theta"][-1][1] == pytest.approx(-4700 / 160, abs=0.01)  # 160 of 200 to train on
        assert traces["mean_field"][-1][1] == pytest.approx(-1175 / 40, abs=0.01)

    def test_wide_ranges_are_logarithmic_and_ticks_are_apart(self) -> None:
        for scale in (Scale.over([0.0, 0.3, 0.2]), Scale.over([0.001, 4.0, math.inf]), Scale(-31.53, -31.2), Scale.over([0.0])):
            at = [place for place, _ in scale.ticks]
            assert 2 <= len(at) <= 8
            assert all(0 <= place <= 100 for place in at)
            assert all(b - a > 13 for a, b in pairwise(at))
        assert Scale.over([0.3, 0.2]).knee is None
        assert Scale.over([0.001, 4.0]).knee == 0.001

    def test_a_column_is_numeric_if_all_it_holds_is(self) -> None:
        texts = [["a", "-31.5 ± 0.1", "≥ 2", "8"], ["b", "∞", "0.1 … 0.2", "digits"], ["c", "—", "7 of 512", ""]]
        table = Table("", [], [[Cell(text) for text in one] for one in texts])
        assert table.numeric == [False, True, True, False]


class TestVerdicts:
    @pytest.mark.parametrize(("khat", "ess", "level"), [
        (None, None, "good"), (0.7, 400, "good"), (0.71, 400, "bad"), (0.9, 470, "good"), (0.9, None, "bad")])
    def test_khat(self, khat: float | None, ess: float | None, level: str) -> None:
        assert levels(verdicts(record(table=comparison(row("g", khat=khat, ess=ess)))), "k̂") == [level]

    @pytest.mark.parametrize(("ess", "draws", "level"), [
        (None, 512, "good"), (9, 512, "bad"), (95, 512, "caution"), (300, 512, "good"), (300, 4096, "caution"),
        (40, 40, "good")])
    def test_ess(self, ess: float | None, draws: int, level: str) -> None:
        assert levels(verdicts(record(table=comparison(row("g", ess=ess, draws=draws)))), "ESS") == [level]

    @pytest.mark.parametrize(("kind", "level", "says"), [
        ("exact", "good", "exact"), ("quadrature", "good", "quadrature"), ("bracketed", "good", "both sides"),
        ("estimated", "caution", "may miss modes"), ("lower_bound", "caution", "gaps are lower bounds too")])
    def test_evidence(self, kind: str, level: str, says: str) -> None:
        shared = verdicts(record(table=comparison(log_evidence=evidence(kind))))
        own = verdicts(record(table=comparison(row("g", log_evidence=evidence(kind)), log_evidence=None, own_theta=True)))
        for found in (shared, own):
            assert levels(found, "evidence") == [level]
            assert says in next(verdict.text for verdict in found if verdict.topic == "evidence")

    @pytest.mark.parametrize(("converged", "stopped", "level"), [
        (True, "", "good"), (True, "early: the held-out ELBO has not risen", "good"), (False, "", "caution"),
        (False, "not converged: 200 steps; raise --steps", "caution"), (False, "step 7 turned non-finite", "bad")])
    def test_convergence(self, converged: bool, stopped: str, level: str) -> None:
        found = verdicts(record(table=comparison(row("g", converged=converged, stopped=stopped), theta=None)))
        assert levels(found, "convergence") == [level]
        assert any(stopped in verdict.text for verdict in found)

    def test_a_joint_fit_is_judged_once(self) -> None:
        one = row("g")
        theta = {key: one[key] for key in ("method", "guide", "steps", "seconds", "converged", "stopped")}
        assert len(levels(verdicts(record(table=comparison(one, theta=theta))), "convergence")) == 1
        assert len(levels(verdicts(record(table=comparison(one))), "convergence")) == 2

    def test_runs_that_did_not_end(self) -> None:
        assert levels(verdicts(record(state="failed", error="no")), "run") == ["bad"]
        assert levels(verdicts(record(state="unfinished")), "run") == ["caution"]
        assert levels(verdicts(full()), "run") == []

    @pytest.mark.parametrize(("ends", "level"), [((-1200.0, -1200.01), "good"), ((-1200.0, -1300.0), "caution")])
    def test_seeds_of_one_run(self, ends: tuple[float, float], level: str) -> None:
        steps = [step for i, end in enumerate(ends) for step in metrics(f"seed {i}", end, 200, units=40)]
        assert levels(verdicts(record(table=comparison(), metrics=steps)), "seeds") == [level]
        assert levels(verdicts(record(table=comparison(), metrics=steps[:200])), "seeds") == []

    @pytest.mark.parametrize(("elbo", "level"), [(-1201.0, "good"), (-1220.0, "caution"), (-1300.0, "bad")])
    def test_spread_over_seeds(self, elbo: float, level: str) -> None:
        runs = [record("a", seed=0, table=comparison(row("g"))), record("b", seed=1, table=comparison(row("g", elbo)))]
        assert [verdict.level for verdict in spread(runs)] == [level]

    def test_only_runs_that_differ_in_nothing_but_their_seed_are_compared(self) -> None:
        one, two = (record(name, seed=seed, table=comparison()) for name, seed in (("a", 0), ("b", 1)))
        other = record("c", seed=1, table=comparison(), spec={**one.spec, "seed": 1, "options": {"latent": 2}})
        assert len(spread([one, two, other])) == 1
        assert spread([one, other]) == []
        assert spread([one, record("d", table=comparison())]) == []  # the same seed twice
        assert spread([one, record("e", "failed", seed=1)]) == []


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def without_browser(reason: str) -> NoReturn:
    """Skip a test that needs a browser; fail it where ``ZOO_BROWSER=required`` says that there is one."""
    if os.environ.get("ZOO_BROWSER") == "required":
        pytest.fail(f"expected a browser, as ZOO_BROWSER=required; got none: {reason}")
    pytest.skip(reason)


def test_a_browser_that_is_required_is_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_BROWSER", "required")
    with pytest.raises(pytest.fail.Exception, match="got none: no Chromium"):
        without_browser("no Chromium")
    monkeypatch.delenv("ZOO_BROWSER")
    with pytest.raises(pytest.skip.Exception):
        without_browser("no Chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        from playwright import sync_api as api
    except ImportError:
        without_browser("playwright is not installed")
    if CHROMIUM is None:
        without_browser("no Chromium on this machine")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Open a page from disk in a fresh window; on leaving, nothing may have gone wrong in it."""
    problems: list[str] = []
    windows: list[Any] = []

    def show(text: str, **options: Any) -> Any:
        file = tmp_path / "report.html"
        file.write_text(text, encoding="utf-8")
        window = browser.new_context(**options)
        windows.append(window)
        tab = window.new_page()
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("dialog", lambda dialog: (problems.append("a dialog"), dialog.dismiss()))
        tab.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else problems.append(request.url))
        tab.goto(file.as_uri())
        return tab

    yield show
    for window in windows:
        window.close()
    assert problems == []


#: The smallest contrast of a text with what lies behind it, by WCAG 2's formula.
CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => { const c = rgb(getComputedStyle(node).backgroundColor);
    return c.length === 4 && c[3] === 0 && node.parentElement ? behind(node.parentElement) : c; };
  const worst = [...document.body.querySelectorAll(":not(script)")]
    .filter((node) => [...node.childNodes].some((part) => part.nodeType === 3 && part.textContent.trim()))
    .map((node) => [light(rgb(getComputedStyle(node).color)), light(behind(node))])
    .map(([a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  return Math.min(...worst);
}"""


class TestBrowser:
    def test_heads_sort_by_click_and_by_keyboard(self, show: Any) -> None:
        rows = [row("a", -1000.0, khat=None), row("b", -9.0), row("c", -80.0, khat=1.2)]
        tab = show(page([record(table=comparison(*rows))]))
        table = tab.get_by_role("region", name="Comparison, totals").get_by_role("table")

        def order() -> str:
            return "".join(table.locator("tbody th").all_text_contents())

        elbo, khat = table.get_by_role("columnheader", name="ELBO"), table.get_by_role("columnheader", name="k̂")
        elbo.get_by_role("button").click()
        assert (order(), elbo.get_attribute("aria-sort")) == ("acb", "ascending")  # as numbers, not as text
        elbo.get_by_role("button").click()
        assert (order(), elbo.get_attribute("aria-sort")) == ("bca", "descending")
        table.get_by_role("columnheader", name="guide").get_by_role("button").click()
        assert order() == "abc"
        khat.get_by_role("button").focus()
        tab.keyboard.press("Enter")
        assert (order(), khat.get_attribute("aria-sort"), elbo.get_attribute("aria-sort")) == ("bca", "ascending", "none")
        tab.keyboard.press("Space")
        assert (order(), khat.get_attribute("aria-sort")) == ("cba", "descending")  # what is missing stays last

    def test_what_was_given_stays_text(self, show: Any) -> None:
        spec = {**full().spec, "model": EVIL, "data": EVIL, "record": {}}
        tab = show(page([record(table=comparison(row(EVIL)), spec=spec)]))
        assert tab.get_by_role("heading", level=1).inner_text() == f"{EVIL} on {EVIL}"

    def test_a_script_that_got_in_would_not_run(self, browser: Any) -> None:
        window = browser.new_context()
        tab, said = window.new_page(), []
        tab.on("console", lambda message: said.append(message.text))
        tab.set_content(page([full()]).replace("<main>", "<main><script>document.title = 'run'</script>"))
        assert tab.title() == "vae on digits · Latent Zoo"
        assert "Content Security Policy" in " ".join(said)
        window.close()

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
    def test_it_can_be_read_on_a_phone_in_light_and_dark(self, show: Any, scheme: str, several: bool) -> None:
        runs = [full("a-run-of-a-rather-long-name-20251123-180612-4f0c"), full("b", 1), record("c", "failed", error="no " * 60)]
        tab = show(page(runs if several else runs[:1]), viewport={"width": 360, "height": 740}, color_scheme=scheme)
        tab.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
        ground = [int(part) for part in re.findall(r"\d+", tab.evaluate("getComputedStyle(document.body).backgroundColor"))]
        assert (sum(ground) < 120) == (scheme == "dark")
        assert tab.evaluate(CONTRAST) >= 4.5

    def test_parts_are_found_by_their_names(self, show: Any) -> None:
        tab = show(page([full()]))
        for name in ("What was run", "Log evidence", "Comparison", "Gaps", "What the gaps are made of", "ELBO against time",
                     "Posterior", "Diagnostics", "Run it again"):
            assert tab.get_by_role("heading", name=name, exact=True).count() == 1
            assert tab.get_by_role("region", name=name, exact=True).count() == 1
        assert tab.get_by_role("main").count() == tab.get_by_role("banner").count() == 1
        assert tab.get_by_role("img", name="ELBO, nats per unit against seconds").count() == 1
        assert tab.get_by_role("list", name="Verdicts").get_by_role("listitem").count() == 8
        assert tab.get_by_role("table", name="Nats per unit, of 40 units").count() == 1

    def test_several_runs_lead_to_their_parts(self, show: Any) -> None:
        tab = show(page([full("a"), full("b", 1), record("c", "unfinished")]))
        overview = tab.get_by_role("region", name="Overview of runs").get_by_role("table")
        heads = [head.strip() for head in overview.locator("thead th").all_text_contents()]
        assert heads[:3] == ["run", "state", "guide"]
        assert heads[7:] == ["seed"]
        assert overview.locator("tbody tr").count() == 5
        assert not tab.locator("#run-1").is_visible()
        overview.get_by_role("link", name="b").first.click()
        assert tab.locator("#run-1").is_visible()
        assert not tab.locator("#run-0").is_visible()
        levels = tab.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((head) => Number(head.tagName[1]))")
        assert all(after - before <= 1 for before, after in pairwise(levels))
        names = tab.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
        assert len(set(names)) == len(names)

"""Names and texts of others steer no terminal: control characters and markup in them are printed as they are written."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experiments.cli import listing, run
from experiments.fits.progress import Display
from experiments.reporting.output import remark
from experiments.reporting.record import settle
from experiments.runtime.inert import inert, inert_json
from experiments.studies.runner import Report
from tests.experiments.cli.test_cli import refused

#: Markup of rich, an emoji's name, a colour, a terminal's title, one of C1, ends of lines, marks of direction.
HOSTILE = "[red]x[][link=u]:smile:\x1b[31m\x1b]0;t\x07\x9b2J\x7f\r\n\u2028\u202e\u2066"
#: How it is printed.
SHOWN = r"[red]x[][link=u]:smile:\x1b[31m\x1b]0;t\x07\x9b2J\x7f\r\n\u2028\u202e\u2066"
#: The same in an error's line, which has one space for any others.
SPACED = SHOWN.replace(r"\r\n\u2028", " ")
#: As a name of a column, which is one line.
COLUMN = SHOWN.replace(r"\r\n", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(*words: str, terminal: bool = False) -> tuple[str, str]:
    """Run a command in this process, on a terminal or piped; return what it printed on both streams, which must be harmless."""
    kind = Terminal if terminal else io.StringIO
    with contextlib.redirect_stdout(kind()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = run(list(words))
    assert code == 0, err.getvalue()
    return harmless(out.getvalue(), terminal), harmless(err.getvalue())


def harmless(text: str, styled: bool = False) -> str:
    """Check that a text has no active character but ends of lines, and if ``styled`` rich's own bold and dim; return it."""
    plain = re.sub("\x1b\\[[0-2]?m", "", text) if styled else text
    assert re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", plain) == []
    return plain


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which a file of data and one of its columns have hostile names."""
    rows = np.random.default_rng(0).normal(size=(30, 3))
    column = '"' + HOSTILE.replace("\r", "") + '"'
    text = f"{column},b,y\n" + "\n".join(",".join(f"{value:.3f}" for value in row) for row in rows)
    (tmp_path / (HOSTILE + ".csv")).write_text(text, newline="")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("terminal", [False, True])
def test_names_of_files_and_columns(place: Path, terminal: bool) -> None:
    words = ("linear_regression", "-d", HOSTILE + ".csv", "-g", "exact")
    out, err = printed("fit", *words, "--out", HOSTILE, "--no-report", terminal=terminal)
    assert "[red]x[][link=u]:smile:" in out
    assert f"remark: wrote {SHOWN}\n" in err
    out, _ = printed("runs", ".", terminal=terminal)
    assert "[red]x[]" in out
    out, err = printed("summary", *words, "--draws", "50", terminal=terminal)
    assert f"weights[{COLUMN}]" in out
    assert f"remark: {SHOWN}.csv: columns standardised" in err
    out, _ = printed("compare", *words, "--parameters", terminal=terminal)
    assert "[red]x[]" in out
    assert f"on {SHOWN}.csv:" in printed("list", *words[:3], terminal=terminal)[0].replace("\n", "")
    assert f"{SHOWN}.csv" in printed("recommend", *words[:3], "--tolerance", "9", terminal=terminal)[1]


def test_theta_under_names_of_columns(place: Path) -> None:
    words = ("compare", "ppca", "-d", HOSTILE + ".csv", "-g", "exact")
    column = HOSTILE.replace("\r\n", "")  # a name is one line
    assert COLUMN in printed(*words)[0]
    assert "[red]x[][link=u]:smile:" in printed(*words, terminal=True)[0]
    assert json.loads(printed(*words, "--json")[0])["theta"]["labels"]["column"][0] == column


def test_records_that_somebody_wrote(place: Path) -> None:
    printed("fit", "gmm", "-d", "faithful", "-g", "exact", "--out", "runs/a", "--no-report")
    file = place / "runs" / "a" / "comparison.json"
    file.write_text(file.read_text().replace('"guide": "exact"', f'"guide": {json.dumps(HOSTILE)}'))
    settle(file.parent, "done")  # with checksums that agree
    failed = place / "runs" / "b"
    failed.mkdir()
    (failed / "spec.toml").write_text((place / "runs" / "a" / "spec.toml").read_text())
    (failed / "status.json").write_text(json.dumps({"state": "failed", "error": HOSTILE}))
    for terminal in (False, True):
        assert printed("runs", terminal=terminal)[0].count("[red]x[]") == 2
    assert [one["error"] for one in json.loads(printed("runs", "--json")[0])] == ["", HOSTILE]


def test_lines_of_errors(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("fit", HOSTILE), ("fit", "gmm", "-g", HOSTILE), ("fit", "gmm", "-d", HOSTILE), ("run", HOSTILE),
                  ("resume", HOSTILE), ("study", HOSTILE), ("list", HOSTILE), (HOSTILE,), ("runs", "--" + HOSTILE)):
        line = harmless(refused(capsys, *words))
        assert "[red]x" in line or "[link=u]" in line
    assert SPACED in refused(capsys, "fit", HOSTILE)


def test_remarks_studies_and_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    remark(HOSTILE)
    assert capsys.readouterr().err == f"remark: {SHOWN}\n"
    listing.show_report(Report("elbo", (), 0.0, (HOSTILE,), HOSTILE))
    assert harmless(capsys.readouterr().out).count("[red]x[]") == 2
    monkeypatch.setenv("TERM", "xterm")
    now: Any = SimpleNamespace(name=HOSTILE, guide=None, model=SimpleNamespace(label="gmm"), limit=9, objective="ELBO")
    with contextlib.redirect_stderr(Terminal()) as err:
        shown = Display()
        shown.on_start(now)
        shown.close()
    assert "[red]x[][link=u]:smile:" in err.getvalue()
    assert not {"\x1b[31mx", "\x07", "\x9b", "\u202e"} & set(re.findall("\x1b\\[31mx|[\x07\x9b\u202e]", err.getvalue()))


def test_a_remark_that_cannot_be_printed_stops_nothing() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError("No space left on device")

    with contextlib.redirect_stderr(Full()) as err:
        remark("lost")
    assert err.getvalue() == ""


@pytest.mark.parametrize("text", [chr(i) for i in (*range(32), *range(127, 160), 0x202E, 0xDC80)])
def test_json_says_what_it_was_given(text: str) -> None:
    assert inert(inert_json([text])).replace(r"\n", "").isprintable()
    assert json.loads(inert_json([text])) == [text]

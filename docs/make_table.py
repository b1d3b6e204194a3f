"""Draw the README's picture of the table: what ``zoo compare eight_schools`` prints on a terminal."""

from __future__ import annotations

import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

import experiments
import zoo
from experiments.comparison.terminal import text

#: A plain frame in the system's own monospaced font: rich's own asks a font server.
FRAME = """<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: {char_height}px;
  line-height: {line_height}px; }}
{styles}
</style>
<defs>{lines}</defs>
<rect width="{width}" height="{height}" rx="8" fill="#0c0c0c"/>
<g transform="translate(9, 9)"><g class="{unique_id}-matrix" xml:space="preserve">{matrix}</g></g>
</svg>
"""


def main() -> None:
    x = zoo.dataset("eight_schools").x
    model = zoo.build("eight_schools", x)
    table = experiments.compare(model, x, ["prior", "mean_field", "low_rank", "full_rank"], data="eight_schools")
    console = Console(record=True, width=100, force_terminal=True, highlight=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print("$ zoo compare eight_schools -g prior -g mean_field -g low_rank -g full_rank", markup=False)
    text.comparison(table, console)
    svg = console.export_svg(title="", theme=MONOKAI, code_format=FRAME, unique_id="table")
    svg = re.sub(r"[ \t]+\n", "\n", svg)
    (Path(__file__).parent / "compare.svg").write_text(svg)


if __name__ == "__main__":
    main()

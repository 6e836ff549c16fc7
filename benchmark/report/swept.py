"""The table of a sweep over attackers' settings: a line for each attack, a column for each point."""

from pathlib import Path

import pandas as pd

from benchmark.analysis import names
from benchmark.analysis.frame import csv_text
from benchmark.analysis.swept import ROW
from benchmark.report.render import escape_markdown, markdown_table, not_published, write_texts

TITLE = "What attackers have, and what it is worth"
CAPTION = "MSE of the same encoders under the same attackers, mean over the seeds; lower is a stronger attack."
HEADINGS = ["data set", "protocol", "row", "split", "attacker"]  # and the points


def write_swept(lines: pd.DataFrame, points: list[str], labels: list[str], out: Path) -> list[Path]:
    """swept.md and swept.csv below `out`; nothing where there are no `lines` (of analysis/swept.py).

    points: the sweep's, in its order; labels: how the cells depart from the published setting otherwise.
    """
    if lines.empty:
        return []
    return write_texts(out, {"swept.csv": csv_text(lines), "swept.md": _markdown(lines, points, labels)})


def text_rows(lines: pd.DataFrame, points: list[str]) -> list[tuple[dict[str, str], list[str]]]:
    """(the attack's axes, the text under each of HEADINGS and the points), with a dagger at doubtful numbers."""
    rows = []
    for key, part in lines.groupby(ROW, sort=False):
        axes = dict(zip(ROW, map(str, key), strict=True))
        shown = [names.dataset_title(axes["dataset"]), axes["protocol"], names.row_label(axes["defense"], axes["cem"])]
        at = {line.point: f"{line.mse:.4f}{'†' if line.doubt else ''}" for line in part.itertuples()}
        shown += [axes["split"], names.attacker_title(axes["attacker"]), *(at.get(point, "–") for point in points)]
        rows.append((axes, shown))
    return rows


def dagger(lines: pd.DataFrame) -> str:
    """What the dagger means in these lines; "" where none has one."""
    doubts = "; ".join(sorted(set(lines["doubt"]) - {""}))
    return f"† {doubts}." if doubts else ""


def _markdown(lines: pd.DataFrame, points: list[str], labels: list[str]) -> str:
    rows = [shown for _, shown in text_rows(lines, points)]
    headings = [*HEADINGS, *map(escape_markdown, points)]
    parts = [
        f"# {TITLE}",
        f"{CAPTION} A dash: not measured. swept.csv has the SSIM, and the number of seeds.",
        *not_published(labels),
        markdown_table(rows, headings),
    ]
    return "\n\n".join(filter(None, (*parts, dagger(lines)))) + "\n"

"""The table of a sweep over attackers' settings: a line an attack, a column a point."""

from pathlib import Path

import pandas as pd

from benchmark.analysis import names
from benchmark.analysis.frame import csv_text
from benchmark.analysis.swept import ROW
from benchmark.report.render import escape_markdown, markdown_table, not_published, write_texts


def write_swept(lines: pd.DataFrame, points: list[str], labels: list[str], out: Path) -> list[Path]:
    """swept.md and swept.csv below `out`; nothing where there are no `lines` (of analysis/swept.py).

    points: the sweep's, in its order; labels: how the cells depart from the published setting otherwise.
    """
    if lines.empty:
        return []
    return write_texts(out, {"swept.csv": csv_text(lines), "swept.md": _markdown(lines, points, labels)})


def _markdown(lines: pd.DataFrame, points: list[str], labels: list[str]) -> str:
    rows = []
    for key, part in lines.groupby(ROW, sort=False):
        dataset, protocol, defense, cem, split, attacker = key
        shown = [names.dataset_title(dataset), protocol, names.row_label(defense, cem), split]
        at = {line.point: f"{line.mse:.4f}{'†' if line.doubt else ''}" for line in part.itertuples()}
        rows.append([*shown, names.attacker_title(attacker), *(at.get(point, "–") for point in points)])
    headings = ["data set", "protocol", "row", "split", "attacker", *map(escape_markdown, points)]
    parts = [
        "# What attackers have, and what it is worth",
        "MSE of the same encoders under the same attackers, mean over the seeds; lower is a stronger attack. A dash: "
        "not measured. swept.csv has the SSIM, and the number of seeds.",
        *not_published(labels),
        markdown_table(rows, headings),
    ]
    if (lines["doubt"] != "").any():
        parts.append(f"† {'; '.join(sorted(set(lines['doubt']) - {''}))}.")
    return "\n\n".join(parts) + "\n"

"""The leaderboard of all results in a store: tables/leaderboard.md and leaderboard.html."""

from pathlib import Path

import pandas as pd

from benchmark.analysis.collect import tidy_frame
from benchmark.analysis.leaderboard import leaderboard
from benchmark.analysis.names import attacker_title, dataset_title, row_label
from benchmark.analysis.stored import about, stored_cells
from benchmark.departures import column, parted
from benchmark.errors import UserError
from benchmark.output import tell
from benchmark.report.numbers import number, with_half_width
from benchmark.report.render import escape_markdown, markdown_table, rendered, write_texts
from benchmark.store.store import Store

SPLITS = {
    "train": "attackers fitted on the training images, scored on the test images",
    "infer": "attackers fitted on 90 % of the test images, scored on the others",
}
HEADINGS = ["rank", "row", "accuracy, %", "MSE", "SSIM", "strongest attacker", "attackers", "flags", "protocol"]
HEADINGS += ["epochs", "seeds", "setting", "measured by"]
INTRODUCTION = (
    "Rows by the MSE at which the strongest attacker that was used on them rebuilds images; higher is harder to "
    "invert. Accuracy stands beside it, for the one can be had for the other: a star marks the rows that no other "
    "beats in both. A dash is a row without a rank, and why is told.",
    "Every row is made from kept results, by which its numbers can be checked: docs/LEADERBOARD.md says how to submit "
    "one, and what the check proves. A number is as good as its attackers, which the flags tell of:",
)
FLAGS = {
    "decoder_beaten": "another attacker's MSE is more than 5 % below the paper's decoder's: the printed attack is weak",
    "closed_form_wins": "an attacker without training rebuilds better than a network, which failed",
    "still_falling": "an attack had not converged: a longer one may rebuild more",
    "few_draws": "a random defence, scored in fewer than 3 seeds",
}


def write_leaderboard(store: Store, tables: Path) -> list[Path]:
    """Write both files to the folder `tables`; nothing if no row on a whole data set was attacked.

    Damaged results are reported and left out.
    """
    try:
        cells = stored_cells(store, lambda text: tell(f"leaderboard: {text}"))
        frame, facts = tidy_frame(cells, store), about(cells, store)
    except UserError as error:  # a result of another suite than the reported one
        tell(f"the leaderboard is not written: {error}")
        return []
    board = leaderboard(frame, random=set(frame["defense"]) - {"none"}).merge(facts, on="suite", how="left")
    if board.empty:
        return []
    parts = [
        (f"{dataset_title(dataset)}: {SPLITS.get(split, split)}", [_line(row) for row in part.itertuples(index=False)])
        for (dataset, split), part in board.groupby(["dataset", "split"], sort=False)
    ]
    page = rendered("html", "leaderboard", parts=parts, headings=HEADINGS, flags=FLAGS, introduction=INTRODUCTION)
    return write_texts(tables, {"leaderboard.md": _markdown(parts), "leaderboard.html": page})


def _line(row) -> dict[str, str]:
    """The text of a row under each of HEADINGS, and in `doubt` why it has no rank."""
    shown = [
        "–" if pd.isna(row.rank) else f"{row.rank:.0f}{'★' if row.frontier else ''}",
        row_label(row.defense, row.cem),
        with_half_width(row.accuracy_percent, row.accuracy_percent_half_width, 2),
        with_half_width(row.mse, row.mse_half_width, 4),
        number(row.ssim, ".3f"),
        attacker_title(row.attacker),
        str(row.attackers),
        ", ".join(name.replace("_", " ") for name in row.flags.split(", ")) or "none",
        row.protocol,
        str(row.epochs),
        str(row.seeds),
        column(text for text in parted([row.label]) if not text.startswith("train.epochs ")) or "as published",
        row.measured_by,
    ]
    return dict(zip(HEADINGS, shown, strict=True)) | {"doubt": row.doubt}


def _markdown(parts: list[tuple[str, list[dict[str, str]]]]) -> str:
    texts = ["# Leaderboard", *INTRODUCTION, "\n".join(f"* {name.replace('_', ' ')}: {FLAGS[name]}" for name in FLAGS)]
    for title, lines in parts:
        rows = [[line[name] for name in HEADINGS] for line in lines]
        texts += [f"## {escape_markdown(title)}", markdown_table(rows, HEADINGS)]
        texts += [escape_markdown(f"{line['row']}: {line['doubt']}.") for line in lines if line["doubt"]]
    return "\n\n".join(texts) + "\n"

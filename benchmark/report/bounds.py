"""Tables of every row's theoretical bounds beside the strongest attacker, and of how the bounds rank the rows."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd

from benchmark.analysis import names
from benchmark.analysis.bounds import QUANTITIES, SPLITS, bounds_rows, ranks
from benchmark.analysis.frame import csv_text
from benchmark.departures import parted
from benchmark.report.numbers import DASH, with_interval
from benchmark.report.render import rendered, write_texts
from benchmark.report.table import Cell, Column, Row, Table, grouped, number_of

_COLUMNS = (
    Column("Information (nats)", "Eq 7", metric="eq7_nats", decimals=1),
    Column("Information (nats)", "log-det.", metric="logdet_nats", decimals=1),
    Column("Information (nats)", "lower", metric="mi_lower_nats", decimals=2),
    Column("Information (nats)", "upper", metric="mi_upper_nats", decimals=1),
    Column("", "Released CEM objective", metric="released_objective", decimals=4),
    Column("Least MSE, Gaussian images", "van Trees", metric="van_trees_mse", decimals=5),
    Column("Least MSE, Gaussian images", "linearised", metric="linearised_mse", decimals=5),
    Column("Strongest attacker's MSE", "Train", metric="mse_train", decimals=5),
    Column("Strongest attacker's MSE", "Infer", metric="mse_infer", decimals=5),
    Column("Least MSE with CEM / without", "Thm 1+2", metric="theory_ratio", decimals=3),
    Column("Least MSE with CEM / without", "Train", metric="mse_train_ratio", decimals=3),
    Column("Least MSE with CEM / without", "Infer", metric="mse_infer_ratio", decimals=3),
)
_CAPTION = (
    "What theory says of each row, beside the lowest MSE that any attacker of the suite reached (docs/METHODS.md says "
    "what bounds what and under which assumptions). Means over seeds. 'lower' cannot exceed the log of the number of "
    "images. The last three columns: how CEM changes the least error by Theorems 1 and 2, of which H(x) drops out of "
    "the ratio, and how it changed the strongest attacker's."
)


def write_bounds(frame: pd.DataFrame, out: Path) -> list[Path]:
    """bounds.md, .tex, .csv and bounds_ranks.csv below `out`; nothing if the frame has no bounds cell."""
    rows = bounds_rows(frame)
    if rows.empty:
        return []
    order = ranks(rows)
    tables = _tables(rows, order)
    texts = {
        f"bounds.{kind}": "\n".join(rendered(kind, "table", table=table) for table in tables) for kind in ("md", "tex")
    }
    return write_texts(out, texts | {"bounds.csv": csv_text(rows), "bounds_ranks.csv": csv_text(order)})


def bounds_tables(frame: pd.DataFrame) -> list[Table]:
    """For each suite, protocol and data set with bounds cells: the bounds, and how they rank the rows."""
    rows = bounds_rows(frame)
    return [] if rows.empty else _tables(rows, ranks(rows))


def _tables(rows: pd.DataFrame, order: pd.DataFrame) -> list[Table]:
    several = rows["suite"].nunique() > 1
    tables: list[Table] = []
    for key, part in rows.groupby(["suite", "protocol", "dataset"], sort=False):
        suite, protocol, dataset = key
        where = f"protocol {protocol}" + (f", suite {suite}" if several else "")
        chosen = order[(order[["suite", "protocol", "dataset"]] == list(key)).all(axis=1)]
        found = [_table(part, dataset, where, len(tables)), _rank_table(chosen, dataset, where, len(tables) + 1)]
        tables += [replace(table, dataset=dataset, protocol=protocol) for table in found]
    return tables


def _table(part: pd.DataFrame, dataset: str, where: str, index: int) -> Table:
    notes: list[str] = []

    def cell(row: dict, column: Column) -> Cell:
        metric, value = column.metric, row[column.metric]
        if not math.isnan(value):
            split = metric.removeprefix("mse_")
            marks = (number_of(f"by the {row[f'attacker_{split}']} attack", notes),) if split in SPLITS else ()
            return Cell(f"{value:.{column.decimals}f}", notes=marks, value=value)
        if metric.endswith("_ratio"):
            return Cell("" if row["cem"] == "off" else DASH)
        reason = "no attack of that split is done" if metric.startswith("mse_") else row["reason"]
        return Cell(DASH, notes=(number_of(reason, notes),) if reason else ())

    lines = [
        Row(
            names.row_label(row["defense"], row["cem"]),
            [cell(row, column) for column in _COLUMNS],
            defense=row["defense"],
            cem=row["cem"],
        )
        for row in part.to_dict("records")
    ]
    changes = parted(part["label"])
    departures = f"Not at the published setting: {'; '.join(changes)}." if changes else ""
    subject = f"{names.dataset_title(dataset)}, bounds ({where})"
    table = Table(f"bounds-{index}", f"{dataset}-bounds", subject, _CAPTION, "Methods", grouped(_COLUMNS), lines, notes)
    return replace(table, columns=_COLUMNS, departures=departures)


def _rank_table(order: pd.DataFrame, dataset: str, where: str, index: int) -> Table:
    def text(row: pd.Series, name: str) -> Cell:
        value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
        if math.isnan(value):
            return Cell(DASH, notes=(1,))
        return Cell(with_interval(value, low, high, "+.2f"), value=value)

    lines = []
    for quantity, (title, _) in QUANTITIES.items():
        cells = []
        for split in SPLITS:
            row = order[(order["quantity"] == quantity) & (order["split"] == split)].iloc[0]
            cells += [Cell(str(row["rows"]), value=row["rows"]), text(row, "spearman"), text(row, "kendall")]
        lines.append(Row(title, cells))
    heads = ("rows", "Spearman", "Kendall")
    columns = tuple(Column(f"MSE, {split.capitalize()}", heading) for split in SPLITS for heading in heads)
    caption = (
        "Rank correlation over rows between each quantity, with the sign that theory gives it, and the strongest "
        "attacker's MSE: +1 is the same order. In brackets the 95 % bootstrap interval, defences resampled."
    )
    subject = f"{names.dataset_title(dataset)}, do the bounds rank the rows as the strongest attacker does ({where})"
    unknown = any(cell.text == DASH for line in lines for cell in line.cells)
    notes = ["fewer than 4 rows with both values, or values that do not vary"] if unknown else []
    stem, number, groups = f"bounds-{index}", f"{dataset}-bounds-ranks", grouped(columns)
    return Table(stem, number, subject, caption, "Quantity", groups, lines, notes, columns=columns)

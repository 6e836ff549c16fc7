"""The paper's tables as plain data, built from the tidy frame; rendering is render.py's and page/'s."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from benchmark.analysis import baseline, columns, convergence, names, published
from benchmark.analysis.bounds import SPLITS
from benchmark.analysis.collect import EFFICIENCY
from benchmark.analysis.doubts import Doubts
from benchmark.analysis.flags import closed_form_wins, decoder_beaten
from benchmark.analysis.frame import Summary, half_width, summarise, tidy, too_wide
from benchmark.analysis.verdicts import COLUMNS, SUPPORTED
from benchmark.departures import parted
from benchmark.report.numbers import DASH
from benchmark.report.table import Cell, Column, Row, Table, grouped, number_of

COMPARED = "In brackets: the published value."
ALL_ATTACKERS = ("attackers_mse", "attackers_ssim")  # layouts of our own, beside the paper's
NOT_IN_SUITE = "not in this suite"
TOO_FEW = "(n too small)"  # instead of an interval that says nothing


@dataclass
class _Draft:
    """One table under construction: columns, rows (defense, cem) and where their cells are looked up.

    place: suite, protocol, data set; supported: (place, row, attacker, split, metric) whose claim the verdicts support.
    """

    place: tuple[str, str, str]
    columns: list[Column]
    rows: list[tuple[str, str]]
    summaries: dict[tuple, Summary]
    doubts: Doubts
    supported: set[tuple]
    flagged: dict[tuple, list[str]]  # (place, row, split, attacker) -> flags of its MSE (flags.py)
    printed: dict[tuple, float] = field(default_factory=dict)
    mixed: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def dataset(self) -> str:
        return self.place[2]

    def summary(self, defense: str, cem: str, column: Column) -> Summary | None:
        return self.summaries.get(self.key(defense, cem, column))

    def key(self, defense: str, cem: str, column: Column) -> tuple:
        return (self.dataset, defense, cem, column.attacker, column.split, column.metric)

    @property
    def measured(self) -> list[Summary]:
        """The cells with a value."""
        found = (self.summary(*row, column) for row in self.rows for column in self.columns)
        return [summary for summary in found if summary and summary.values]

    def labels(self) -> set[str]:
        return set().union(*(summary.labels for summary in self.measured))

    def seeds(self) -> list[str]:
        """The seeds with a value in any cell."""
        return sorted(set().union(*(summary.values for summary in self.measured)), key=lambda seed: seed.zfill(20))


def build_tables(
    frame: pd.DataFrame,
    lines: pd.DataFrame,
    compare: bool = False,
    extra_metrics: Sequence[str] = (),
    epochs: Mapping[tuple[str, str, str], str] | None = None,
) -> list[Table]:
    """Every table that the frame (frame.py) has cells for, one of each per suite and protocol.

    For each data set these are the layouts `mse` (Tables 1-3, S5) and `ssim_psnr` (S1-S4), and for its
    efficiency rows the layout of S6.

    lines: the frame's verdicts (analysis/verdicts.py), which say what is bold.
    compare: print the published value behind the produced one, in brackets.
    extra_metrics: further metrics (`psnr_db_per_image`, ...) as columns of the `ssim_psnr` tables.
    epochs: (suite, protocol, data set) -> the captions' sentence on epochs (analysis/collect.py).
    Raises UserError for a frame that is not tidy.
    """
    frame = tidy(frame)
    several = frame["suite"].nunique() > 1
    doubts, flagged = Doubts(frame), _flagged(frame)
    supported = set(lines.loc[lines["verdict"] == SUPPORTED, COLUMNS[1:9]].itertuples(index=False, name=None))
    tables = []
    for (suite, protocol), part in frame.groupby(["suite", "protocol"], sort=True):
        summaries = summarise(part)
        for dataset, layout in _layouts(part):
            columns, rows = _shape(part[part["dataset"] == dataset], dataset, layout, extra_metrics)
            told = flagged if layout in ALL_ATTACKERS else {}  # the printed layouts do not depend on other attackers
            draft = _Draft((suite, protocol, dataset), columns, rows, summaries, doubts, supported, told)
            lengths = (epochs or {}).get((suite, protocol, dataset), "") if layout != "efficiency" else ""
            tables.append(_finish(draft, layout, protocol, suite if several else "", compare, lengths))
    return _with_own_names(tables)


def _layouts(part: pd.DataFrame) -> list[tuple[str, str]]:
    """The (data set, layout) pairs with cells: the printed tables in their order, then the rest."""
    efficiency = part["kind"] == "efficiency"
    found = {(name, "efficiency") for name in part[efficiency]["dataset"]}
    found |= {(name, layout) for name in part[~efficiency]["dataset"] for layout in ("mse", "ssim_psnr")}
    # SSIM and PSNR are printed for attacks on `infer`; without one, a data set of ours has no values there
    attacked = set(part[(part["split"] == "infer") & part["attacker"].isin(names.ATTACKERS)]["dataset"])
    found -= {(name, "ssim_psnr") for name in set(part["dataset"]) - attacked - set(names.DATASETS)}
    stronger = part[(part["kind"] == "attack") & ~part["attacker"].isin(names.ATTACKERS)]
    found |= {(name, layout) for name in stronger["dataset"] for layout in ALL_ATTACKERS}
    order = list(names.PRINTED_TABLES)
    return sorted(found, key=lambda pair: names.rank(pair, order))


def _flagged(frame: pd.DataFrame) -> dict[tuple, list[str]]:
    """Flags of an attack's MSE by other attackers: a stronger one, or one without training, rebuilds better.

    There is no flag if the GAN beats the decoder: the table shows both.
    """
    beaten = decoder_beaten(frame)
    beaten = beaten[~beaten["attacker"].isin(names.ATTACKERS)].assign(attacker="decoder")
    found: dict[tuple, list[str]] = {}
    for line in pd.concat([beaten, closed_form_wins(frame)]).itertuples(index=False):
        place = (line.suite, line.protocol, line.dataset, line.defense, line.cem, line.split, line.attacker)
        found.setdefault(place, []).append(line.text)
    return found


def _shape(part, dataset: str, layout: str, extra_metrics: Sequence[str]) -> tuple[list[Column], list[tuple[str, str]]]:
    """The columns and the rows (defense, cem) of a layout."""
    efficiency = part["kind"] == "efficiency"
    if layout == "efficiency":
        return _efficiency_columns(), _efficiency_rows(part[efficiency])
    all_of_them = layout in ALL_ATTACKERS
    columns = _all_attackers_columns(layout, part) if all_of_them else _attack_columns(layout, extra_metrics)
    if dataset not in names.DATASETS:  # the paper has no table for it whose columns must be kept
        there = {("", ""), *zip(part["attacker"], part["split"], strict=True)}
        columns = [column for column in columns if (column.attacker, column.split) in there]
    return columns, _method_rows(part[~efficiency], dataset, layout)


def _attack_columns(layout: str, extra_metrics: Sequence[str]) -> list[Column]:
    columns = [_column("", "accuracy_percent")]
    for attacker in names.ATTACKERS:
        title = names.attacker_title(attacker)
        if layout == "mse":
            columns += [_column(f"{title} MSE", "mse", attacker, split, f"{split.capitalize()}↑") for split in SPLITS]
        else:
            wanted = dict.fromkeys(["ssim", "psnr_db", *extra_metrics])
            columns += [_column(f"{title} MIA", name, attacker, "infer") for name in wanted]
    return columns


def _all_attackers_columns(layout: str, part: pd.DataFrame) -> list[Column]:
    """A column for each attacker of the suite, the paper's first, in a group for each split."""
    what = layout.removeprefix("attackers_")
    group = names.metric(what).heading
    present, splits = part["attacker"].unique(), part["split"].unique()
    order = [*names.ATTACKERS, *names.STRONGER]
    listed = [name for name in order if name in present] + sorted(set(present) - {*order, ""})
    return [
        _column(f"{group} {split}", what, name, split, names.attacker_title(name))
        for split in SPLITS
        if split in splits
        for name in listed
    ]


def _column(group: str, name: str, attacker: str = "", split: str = "", heading: str = "") -> Column:
    """heading: that of the metric `name`, if none is given."""
    metric = names.metric(name)
    return Column(group, heading or metric.heading, attacker, split, name, metric.decimals)


def _efficiency_columns() -> list[Column]:
    decimals = {"encoder": (3, 1, 2), "server": (2, 2, 2)}  # as S6 prints them
    titles = {"encoder": "Local encoder", "server": "Cloud server"}
    return [
        Column(titles[part], names.metric(name).heading, "", "", f"{part}_{name}", digits)
        for part in names.PARTS
        for name, digits in zip(("params_m", "mmac", "inference_ms"), decimals[part], strict=True)
    ]


def _method_rows(part: pd.DataFrame, dataset: str, layout: str) -> list[tuple[str, str]]:
    """(defense, cem) in printed order: all printed rows for the paper's tables, and those in the frame."""
    seen = set(zip(part["defense"], part["cem"], strict=True))
    if (dataset, layout) in names.PRINTED_TABLES:
        seen |= {(defense, cem) for defense in names.DEFENSES for cem in ("off", "on")}
    # Tables 1-3 alone print the undefended row
    if names.PRINTED_TABLES.get((dataset, layout), "").isdigit():
        seen.add(("none", "off"))
    if layout == "ssim_psnr":
        seen = {row for row in seen if row[0] != "none"}
    order = ["none", *names.DEFENSES]
    return sorted(seen, key=lambda row: (names.rank(row[0], order), names.form_rank(row[1])))


def _efficiency_rows(part: pd.DataFrame) -> list[tuple[str, str]]:
    printed = [("patrol", "off"), ("others", "off")]
    return printed + sorted(set(zip(part["defense"], part["cem"], strict=True)) - set(printed))


def _finish(draft: _Draft, layout: str, protocol: str, suite: str, compare: bool, epochs: str) -> Table:
    number = names.PRINTED_TABLES.get((draft.dataset, layout), f"{draft.dataset}-{layout}")
    draft.printed = published.printed(number) if compare else {}
    labels = draft.labels()
    draft.mixed = len(labels) > 1 and "" in labels
    rows = [
        Row(names.row_label(*row), [_cell(draft, *row, column) for column in draft.columns], False, *row)
        for row in draft.rows
    ]
    rows += _average_rows(draft)
    where = ", ".join(f"{what} {name}" for what, name in (("protocol", protocol), ("suite", suite)) if name)
    return Table(
        name=slug(number, "" if protocol == "published" else protocol, suite),
        number=number,
        dataset=draft.dataset,
        protocol=protocol,
        subject=f"{names.dataset_title(draft.dataset)}, {_SUBJECT[layout][0]}" + (f" ({where})" if where else ""),
        caption=_caption(draft, layout, rows, epochs),
        departures=_departures(labels),
        stub="Methods",
        groups=grouped(draft.columns),
        columns=tuple(draft.columns),
        rows=rows,
        notes=draft.notes,
    )


_SUBJECT = {
    "mse": ("reconstruction MSE", "Accuracy in percent and the attacker's reconstruction MSE."),
    "ssim_psnr": (
        "reconstruction SSIM and PSNR",
        "Accuracy in percent and the attacker's reconstruction SSIM and PSNR (dB) on the infer split.",
    ),
    "attackers_mse": (
        "reconstruction MSE by every attacker",
        "The attackers' reconstruction MSE: those of the paper, then stronger ones (docs/METHODS.md).",
    ),
    "attackers_ssim": (
        "reconstruction SSIM by every attacker",
        "The attackers' reconstruction SSIM: those of the paper, then stronger ones (docs/METHODS.md).",
    ),
    "efficiency": (
        "efficiency",
        "Size and cost of the two parts; time of 100 batches of 128 images on the device of the run.",
    ),
}


def _caption(draft: _Draft, layout: str, rows: list[Row], epochs: str) -> str:
    parts = [_SUBJECT[layout][1]]
    seeds = draft.seeds() if layout != "efficiency" else []
    if seeds:
        parts.append(f"Seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}.")
    if epochs:
        parts.append(epochs)
    cells = [cell for row in rows for cell in row.cells]
    if any(cell.bold for cell in cells):
        claim = "CEM raises the MSE" if layout.endswith("mse") else "CEM lowers SSIM or PSNR"
        parts.append(f"Bold: over the seeds, {claim} significantly, or leaves the accuracy within a point.")
    if any(cell.half_width is not None for cell in cells):
        parts.append("Mean ± half-width of the Student t 95 % interval of the mean over seeds.")
    if draft.printed:
        parts.append(COMPARED)
    return " ".join(parts)


def _departures(labels: set[str]) -> str:
    changes = parted(labels)
    which = "Some cells are not" if "" in labels else "Not"
    return f"{which} at the published setting: {'; '.join(changes)}." if changes else ""


def _cell(draft: _Draft, defense: str, cem: str, column: Column) -> Cell:
    summary = draft.summary(defense, cem, column)
    if summary is None:
        return _make_cell(draft, column, (defense, cem), None, None, [NOT_IN_SUITE])
    notes = [summary.reason] if summary.reason else []
    notes += _attack_notes(draft, defense, cem, column)
    place = (*draft.place, defense, cem, column.attacker, column.split)
    doubt = draft.doubts.of(*place)
    if doubt and doubt not in notes:
        notes.append(doubt)
    if draft.mixed and summary.values:
        notes += [f"reduced: {label}" for label in sorted(summary.labels - {""})]
    bold = (*place, column.metric) in draft.supported and not draft.doubts.of_change(*place)
    judged = column.metric in EFFICIENCY or (not doubt and summary.labels == {""})
    return _make_cell(draft, column, (defense, cem), summary.mean, summary.half_width, notes, bold, judged)


def _attack_notes(draft: _Draft, defense: str, cem: str, column: Column) -> list[str]:
    """The notes at an attack's number, if the attack learnt nothing or was not shown to have converged."""
    notes = []
    for rule in (convergence, baseline, columns):
        found = draft.summary(defense, cem, replace(column, metric=rule.METRIC))
        notes += [rule.NOTE] if found and 0.0 in found.values.values() else []
    if names.base_metric(column.metric) == "mse":
        notes += draft.flagged.get((*draft.place, defense, cem, column.split, column.attacker), [])
    return notes


def _make_cell(draft, column: Column, row, value, spread, notes: list[str], bold=False, comparable=True) -> Cell:
    digits = column.decimals
    text = DASH if value is None else f"{value:.{digits}f}"
    if spread is not None:
        text += f" {TOO_FEW}" if too_wide(column.metric, value, spread) else f" ± {spread:.{digits}f}"
    other = draft.printed.get((*row, column.attacker, column.split, column.metric))
    return Cell(
        text=text,
        bold=bold,
        behind="" if other is None else f"{other:.{digits}f}",
        notes=tuple(number_of(note, draft.notes) for note in notes),
        value=value,
        half_width=spread,
        comparable=comparable,
    )


def _average_rows(draft: _Draft) -> list[Row]:
    variants = sorted({cem for defense, cem in draft.rows if defense in names.DEFENSES}, key=names.form_rank)
    if draft.columns[0].metric != "accuracy_percent":
        return []
    return [
        Row(
            names.average_label(cem),
            [_average_cell(draft, cem, column) for column in draft.columns],
            rule_above=index == 0,
            defense="average",
            cem=cem,
        )
        for index, cem in enumerate(variants)
    ]


def _average_cell(draft: _Draft, cem: str, column: Column) -> Cell:
    members, row = _averaged(draft, cem, column), ("average", cem)
    if not members:
        return _make_cell(draft, column, row, None, None, ["no row to average"])
    notes = []
    if len(members) < len(names.DEFENSES):
        listed = ", ".join(names.defense_title(name) for name in members)
        notes.append(f"average over {len(members)} of {len(names.DEFENSES)} rows: {listed}")
    summaries = [draft.summaries[draft.key(name, cem, column)] for name in members]
    value = sum(summary.mean or 0.0 for summary in summaries) / len(members)
    spread = _average_spread([summary.values for summary in summaries])
    doubtful = any(draft.doubts.of(*draft.place, name, cem, column.attacker, column.split) for name in members)
    judged = not doubtful and all(summary.labels == {""} for summary in summaries)
    return _make_cell(draft, column, row, value, spread, notes, comparable=judged)


def _averaged(draft: _Draft, cem: str, column: Column) -> list[str]:
    """The defences that enter an average: those with a value both with and without CEM.

    So the two averages are over the same rows. A side without any value at all does not shrink the other.
    """
    other = "on" if cem == "off" else "off"
    has = {
        variant: [name for name in names.DEFENSES if (cell := draft.summary(name, variant, column)) and cell.values]
        for variant in (cem, other)
    }
    return [name for name in has[cem] if not has[other] or name in has[other]]


def _average_spread(by_row: list[dict[str, float]]) -> float | None:
    """Interval of the per-seed averages; None unless all rows have the same seeds."""
    seeds = list(by_row[0])
    if any(set(values) != set(seeds) for values in by_row):
        return None
    return half_width([sum(values[seed] for values in by_row) / len(by_row) for seed in seeds])


def slug(*parts: str) -> str:
    """A name that is safe as a file name, in a LaTeX label and in a Markdown link."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", "-".join(part for part in parts if part)).strip("-") or "table"


def _with_own_names(tables: list[Table]) -> list[Table]:
    """Tables whose names coincide (`a_b` and `a-b`, or differing only in case) get a number at the end."""
    taken: set[str] = set()
    result = []
    for table in tables:
        name, count = table.name, 1
        while name.lower() in taken:
            count += 1
            name = f"{table.name}-{count}"
        taken.add(name.lower())
        result.append(replace(table, name=name))
    return result

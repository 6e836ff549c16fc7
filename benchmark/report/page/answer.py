"""The page's answer to whether CEM makes features harder to invert: for each row and attack, and in a sentence."""

import math
from dataclasses import dataclass

import pandas as pd

from benchmark.analysis import baseline, names
from benchmark.analysis.doubts import Doubts
from benchmark.analysis.verdicts import COLUMNS, NOT_SUPPORTED, SUPPORTED, UNDECIDED

SIGNS = {SUPPORTED: "✓ ", NOT_SUPPORTED: "✗ ", UNDECIDED: "? "}
BLIND, CHANCE = "blind", "chance"  # instead of a verdict on a doubtful number
NOT_RUN = "–"


@dataclass(frozen=True)
class Verdict:
    """kind: of SIGNS, or "plain" for one seed or a doubtful number; hint: the full explanation in words."""

    kind: str
    text: str
    hint: str
    change: float


@dataclass(frozen=True)
class Grid:
    """The changes from CEM off to on of one data set and protocol. cell: its filter axes; columns: (attacker, split),
    the accuracy's first; rows: (defense, form of CEM, a verdict a column, None where there is no such cell).
    """

    title: str
    sentence: str
    cell: dict[str, str]
    columns: list[tuple[str, str]]
    rows: list[tuple[str, str, list[Verdict | None]]]


def grids(frame: pd.DataFrame, lines: pd.DataFrame) -> list[Grid]:
    """frame: tidy; lines: its verdicts (analysis/verdicts.py)."""
    doubts = Doubts(frame)
    shown = lines[lines["metric"].isin(["accuracy_percent", "mse"])]
    several = lines["suite"].nunique() > 1  # a sweep has a suite for each of its points
    return [
        _grid(part, doubts, f", {suite}" if several else "")
        for (suite, _, _), part in shown.groupby(["suite", "protocol", "dataset"], sort=False)
    ]


def _grid(lines: pd.DataFrame, doubts: Doubts, where: str) -> Grid:
    first, found = lines.iloc[0], {}
    for line in lines.to_dict("records"):
        found[line["defense"], line["cem"], line["attacker"], line["split"]] = _verdict(line, doubts)
    order = ["", *names.ATTACKERS, *names.STRONGER]
    columns = sorted({key[2:] for key in found}, key=lambda key: (names.rank(key[0], order), key[1] == "infer"))
    rows: list[tuple] = [
        (*row, [found.get((*row, *column)) for column in columns]) for row in dict.fromkeys(key[:2] for key in found)
    ]
    rows.sort(key=lambda row: (names.rank(row[0], ["none", *names.DEFENSES]), names.form_rank(row[1])))
    title = f"{names.dataset_title(first['dataset'])}, protocol {first['protocol']}{where}"
    run = {key: verdict for key, verdict in found.items() if verdict.text != NOT_RUN}
    attacks = [verdict for key, verdict in run.items() if key[2] and not names.chooses(key[2])]
    cell = {"dataset": first["dataset"], "protocol": first["protocol"]}
    told = {key[:2] for key, verdict in run.items() if key[2] and not math.isnan(verdict.change)}
    accuracy = [verdict for key, verdict in run.items() if not key[2] and key[:2] in told]
    seeds = lines[lines["attacker"] != ""]["seeds"].max()
    sentence = _scope(len({key[:2] for key in run}), rows) + _sentence(attacks, accuracy, seeds)
    return Grid(title, sentence, cell, columns, rows)


def _verdict(line: dict, doubts: Doubts) -> Verdict:
    doubt = doubts.of_change(*(line[name] for name in COLUMNS[1:8]))
    accuracy, change = line["metric"] == "accuracy_percent", line["change"]
    digits, unit = (1, " points") if accuracy else (0, "\u00a0%")
    if math.isnan(change):
        return Verdict("plain", NOT_RUN, line["reason"], math.nan)
    if doubt and not accuracy:
        return Verdict("plain", BLIND if doubt == baseline.NOTE else CHANCE, doubt, math.nan)
    kind = "plain" if line["seeds"] < 2 or doubt else line["verdict"]
    size, low, high = (_signed(line[name], digits) + unit for name in ("change", "low", "high"))
    interval = "" if math.isnan(line["low"]) else f" ({low} to {high})"
    hint = f"{line['claim']}: {line['verdict']}, {size}{interval}; {doubt or line['reason']}"
    return Verdict(kind, SIGNS.get(kind, "") + size.removesuffix(" points"), hint, change)


def _signed(number: float, digits: int) -> str:
    return f"{round(number, digits) + 0.0:+.{digits}f}"  # + 0.0: no -0.0


def _scope(run: int, rows: list[tuple]) -> str:
    """How many of the rows have a result at all, unless all have."""
    defenses = {row[0] for row in rows}
    what = "rows" if "none" in defenses or len(defenses) < len(rows) else "defences"  # rows: several forms of CEM
    return f"{run} of {len(rows)} {what} run so far. " if run < len(rows) else ""


def _sentence(attacks: list[Verdict], accuracy: list[Verdict], seeds: int) -> str:
    """The grid's answer to the claim that CEM raises the attackers' MSE, and what it costs."""
    if not attacks:
        return "No attack stands both with and without CEM."
    doubtful = sum(verdict.text in (BLIND, CHANCE) for verdict in attacks)
    count = {kind: sum(verdict.kind == kind for verdict in attacks) for kind in SIGNS}
    told = ", ".join(f"{kind} in {number}" for kind, number in count.items())
    single = len(attacks) - sum(count.values()) - doubtful
    told += f", one seed in {single}" if single else ""
    parts = [
        "One seed: no verdict." if seeds < 2 else f"CEM raises the attackers' MSE: {told} of {len(attacks)} attacks.",
        _size(attacks, accuracy),
        f"{doubtful} of {len(attacks)} attacks tell nothing ({BLIND} or {CHANCE}, below)." if doubtful else "",
    ]
    return " ".join(filter(None, parts))


def _size(attacks: list[Verdict], accuracy: list[Verdict]) -> str:
    mse, points = (pd.Series([verdict.change for verdict in found]).dropna() for found in (attacks, accuracy))
    if mse.empty:
        return ""
    middle, low, high = (f"{_signed(value, 0)}\u00a0%" for value in (mse.median(), mse.min(), mse.max()))
    whose = "attacker's MSE by" if len(mse) == 1 else "attackers' MSE by"
    spread = "" if len(mse) == 1 else f" in the median of {len(mse)} attacks (smallest {low}, largest {high})"
    middling = "" if len(points) == 1 else " in the median"
    cost = "" if points.empty else f", and the accuracy by {_signed(points.median(), 1)} points{middling}"
    return f"CEM changes the {whose} {middle}{spread}{cost}."

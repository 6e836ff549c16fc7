"""The rules of the audit. Each takes all printed cells and yields contradictions; no misprint is hard-coded."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cache
from importlib.resources import files
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd

from benchmark import models
from benchmark.analysis import names
from benchmark.analysis.printed import SAME_RUNS, Cell, decimals, mean, rounded, truncated
from benchmark.defenses import DEFENSES
from benchmark.matrix.load import MatrixFile

Printed = dict[Cell, Decimal]
ROWS = tuple(names.DEFENSES)

# severity: a printed number is wrong; two printed numbers or sentences disagree; worth knowing
ERROR, INCONSISTENT, NOTE = "error", "inconsistent", "note"


@dataclass(frozen=True)
class Finding:
    """rule, severity; cell: where; printed, expected: as text; why: one sentence."""

    rule: str
    severity: str
    cell: Cell
    printed: str
    expected: str
    why: str


def averages(printed: Printed) -> Iterator[Finding]:
    """An average is the mean of the seven rows above it, rounded."""
    for cell, value in _of(printed, defense="average"):
        members: list[Any] = [printed.get(_with(cell, defense=row)) for row in ROWS]
        if None in members:
            continue
        digits, exact = decimals(cell[6]), mean(members)
        right = rounded(exact, digits)
        if value == right:
            continue
        expected, show = str(right), f"the mean of the seven rows is {float(exact):.{digits + 2}f}"
        if value == truncated(exact, digits):
            yield Finding("averages", NOTE, cell, str(value), expected, f"{show}: truncated, not rounded")
        elif any(rounded(exact * 10**shift, digits) == value for shift in (-3, -2, -1, 1, 2, 3)) or any(
            abs(value.scaleb(shift) - right) <= Decimal(1).scaleb(-digits) for shift in (-2, -1, 1, 2)
        ):
            yield Finding("averages", ERROR, cell, str(value), expected, f"{show}: the decimal point is misplaced")
        else:
            yield Finding("averages", ERROR, cell, str(value), expected, show)


def psnr_of_mse(printed: Printed) -> Iterator[Finding]:
    """PSNR is -10 log10 of the MSE of the same run, up to the rounding of both and the spread between batches."""
    for cell, value, mse in _psnr_and_mse(printed):
        low, high = _psnr_range(mse)
        # a mean over batches of 128 lies above the PSNR of the mean by a few hundredths of a dB at most
        if low - 0.01 <= float(value) <= high + 0.06:
            continue
        other = _with(cell, attacker="gan" if cell[4] == "decoder" else "decoder")
        swapped = printed.get(other)
        if swapped is not None and low - 0.01 <= float(swapped) <= high + 0.06:
            why = f"the two attackers' values are swapped: {swapped} fits the MSE {mse}"
            severity = ERROR
        else:
            why = f"the printed MSE {mse} means {low:.2f} to {high:.2f} dB"
            severity = INCONSISTENT if abs(float(value) + 10 * math.log10(mse)) < 0.5 else ERROR
        yield Finding("psnr_of_mse", severity, cell, str(value), f"{-10 * math.log10(mse):.2f}", why)


def psnr_is_derived(printed: Printed) -> Iterator[Finding]:
    """A PSNR that was measured is not exactly -10 log10 of an MSE that was rounded to four decimals.

    A measured PSNR agrees to the last digit with chance 1 / n, where n two-decimal values are possible given the
    rounding of the MSE. p is the chance of at least this many agreements among one attacker's values of a table, times
    the four tries made: rounded or truncated, from the MSE of the infer or of the train split.
    """
    found: dict[tuple[str, str], dict[tuple[str, str], list[tuple[bool, float]]]] = {}
    for split in ("infer", "train"):
        for cell, value, mse in _psnr_and_mse(printed, split):
            chance = min(1.0, 0.01 / (10 * math.log10((mse + 0.5e-4) / max(mse - 0.5e-4, 1e-6))))
            for how, digits in (("rounded", rounded), ("truncated", truncated)):
                agrees = value == digits(-10 * math.log10(mse), 2)
                tries = found.setdefault((cell[0], cell[4]), {})
                tries.setdefault((split, how), []).append((agrees, chance))
    for (table, attacker), tries in found.items():
        p, count, split, how = min(
            (_chance_of_at_least(sum(agrees for agrees, _ in hits), [chance for _, chance in hits]), -len(hits), *name)
            for name, hits in tries.items()
        )
        if len(tries) * p < 1e-3:
            agree = sum(agrees for agrees, _ in tries[split, how])
            why = f"{agree} of {-count} values agree to the last digit, by chance with probability {len(tries) * p:.0e}"
            cell = (table, _dataset(printed, table), "", "", attacker, "infer", "psnr_db")
            source = f"-10 log10 of the printed {split} MSE, {how}"
            yield Finding("psnr_is_derived", NOTE, cell, source, "a measurement of its own", why)


def _chance_of_at_least(count: int, chances: list[float]) -> float:
    """P(at least `count` successes) of independent trials with these chances (Poisson binomial, exact)."""
    distribution = np.ones(1)
    for chance in chances:
        distribution = np.convolve(distribution, [1 - chance, chance])
    return float(distribution[count:].sum())


def printed_twice(printed: Printed) -> Iterator[Finding]:
    """An accuracy stands in the table of MSE and in that of SSIM and PSNR, and is the same.

    If it is not, the printed averages tell which is right: the wrong one is that from which no average follows.
    """
    for table, other in SAME_RUNS.items():
        for cell, value in _of(printed, table=table, metric="accuracy_percent"):
            twin = _with(cell, table=other)
            second = printed.get(twin)
            if second is None or second == value:
                continue
            wrong, right = (cell, twin) if not _average_follows(printed, cell) else (twin, cell)
            settled = _average_follows(printed, cell) != _average_follows(printed, twin)
            why = f"Table {right[0]} prints {printed[right]}"
            why += ", from which the printed average follows" if settled else ""
            why += ": the same digits in another order" if sorted(str(value)) == sorted(str(second)) else ""
            yield Finding("printed_twice", INCONSISTENT, wrong, str(printed[wrong]), str(printed[right]), why)


def _average_follows(printed: Printed, cell: Cell) -> bool:
    """Whether the average printed in the cell's table or in its twin follows from this table's rows."""
    members: list[Any] = [printed.get(_with(cell, defense=row)) for row in ROWS]
    if None in members:
        return False
    digits, exact = decimals(cell[6]), mean(members)
    averages = {
        value for place, value in _of(printed, defense="average", cem=cell[3], metric=cell[6]) if place[1] == cell[1]
    }
    return bool(averages & {rounded(exact, digits), truncated(exact, digits)})


def cem_helps(printed: Printed) -> Iterator[Finding]:
    """The paper: with CEM every row has a higher MSE and a lower SSIM and PSNR."""
    for cell, value in _of(printed, cem="on"):
        without, better = printed.get(_with(cell, cem="off")), names.metric(cell[6]).better
        if without is None or cell[6] == "accuracy_percent":
            continue
        if (value <= without) if better == "higher" else (value >= without):
            relation = {"higher": "above", "lower": "below"}[better]
            why = f"without CEM it is {without}, and CEM is said to help in every row"
            yield Finding("cem_helps", INCONSISTENT, cell, str(value), f"{relation} {without}", why)


def train_is_easier(printed: Printed) -> Iterator[Finding]:
    """An attacker fitted on the training set does not rebuild worse than one fitted on nine tenths of the test set."""
    for cell, infer in _of(printed, metric="mse", split="infer"):
        train = printed.get(_with(cell, split="train"))
        if train is not None and infer < train and cell[2] != "average":
            why = f"fitted on far fewer images the attacker does better than on the training set ({train})"
            yield Finding("train_is_easier", NOTE, cell, str(infer), f"at least {train}", why)


def defence_helps(printed: Printed) -> Iterator[Finding]:
    """A defended row is harder to invert than the undefended row of its table."""
    for cell, plain in _of(printed, defense="none", metric="mse"):
        for row, cem in product(ROWS, ("off", "on")):
            value = printed.get(_with(cell, defense=row, cem=cem))
            if value is not None and value <= plain:
                where = _with(cell, defense=row, cem=cem)
                why = f"no harder to invert than without any defence ({plain})"
                yield Finding("defence_helps", INCONSISTENT, where, str(value), f"above {plain}", why)


def repeated_rows(printed: Printed) -> Iterator[Finding]:
    """Two rows of one table do not agree in three or more measured values."""
    rows: dict[tuple[str, str, str], dict[tuple, Decimal]] = {}
    for cell, value in printed.items():
        if cell[6] in ("mse", "ssim", "psnr_db") and cell[2] in ROWS:
            rows.setdefault((cell[0], cell[2], cell[3]), {})[cell[4:]] = value
    for (first, one), (second, other) in combinations(rows.items(), 2):
        same = [where for where in one if one[where] == other.get(where)]
        if first[0] == second[0] and len(same) >= 3:
            cell = (first[0], _dataset(printed, first[0]), second[1], second[2], *same[0])
            why = f"{len(same)} of its values are those of {names.row_label(*first[1:])}"
            yield Finding("repeated_rows", INCONSISTENT, cell, str(other[same[0]]), "a value of its own", why)


def out_of_range(printed: Printed) -> Iterator[Finding]:
    """Accuracy lies in 0 to 100 %, MSE and SSIM in 0 to 1, PSNR above 0 dB."""
    limits = {"accuracy_percent": (0, 100), "mse": (0, 1), "ssim": (0, 1), "psnr_db": (0, 100)}
    for cell, value in printed.items():
        low, high = limits.get(cell[6], (0, math.inf))
        if not low <= value <= high:
            yield Finding("out_of_range", ERROR, cell, str(value), f"{low} to {high}", "outside the metric's range")


def far_off(printed: Printed) -> Iterator[Finding]:
    """The attackers' columns of one row differ by factors, not by powers of ten: a slipped decimal point."""
    for cell, value in _of(printed, metric="mse"):
        others = [
            printed.get(_with(cell, attacker=attacker, split=split))
            for attacker, split in product(names.ATTACKERS, ("train", "infer"))
            if (attacker, split) != cell[4:6]
        ]
        others = sorted(float(other) for other in others if other)
        if len(others) == 3 and value and cell[2] != "average":
            for shift in (-1, 1):
                moved = float(value.scaleb(shift))
                near = others[0] / 1.3 <= moved <= others[-1] * 1.3
                if near and not others[0] / 5 <= float(value) <= others[-1] * 5:
                    why = f"the row's other values are {others[0]:g} to {others[-1]:g}: a misplaced decimal point"
                    yield Finding("far_off", ERROR, cell, str(value), str(value.scaleb(shift)), why)


PRINTED_AVERAGES = "from the printed averages"
CORRECTED_AVERAGES = "from the printed averages, decimal points put right"


def claimed(printed: Printed) -> Iterator[Finding]:
    """What the text says of averages and gains follows from the tables, from printed averages or from the rows."""
    for claim in _claims().to_dict("records"):
        table = _table_of(printed, claim["dataset"], claim["metric"])
        if table is None:
            continue
        ways = _gains(printed, table, claim) if claim["kind"] == "gain" else _means(printed, table, claim)
        digits = 1 if claim["kind"] == "gain" else decimals(claim["metric"])
        value = Decimal(str(claim["value"]))
        if not ways:
            continue
        fits = [way for way, exact in ways.items() if value in (rounded(exact, digits), truncated(exact, digits))]
        first = next(iter(ways))
        if first in fits:
            continue
        cell = (table, claim["dataset"], "average", claim["cem"], "both", claim["split"], claim["metric"])
        show = ", ".join(f"{float(exact):.{digits}f} {way}" for way, exact in ways.items())
        what = "gain in percent" if claim["kind"] == "gain" else "average over both attackers"
        told = f"it is that {fits[0]}" if fits else "no reading gives it"
        why = f"{what} claimed in the {claim['source']}; {told} (the table gives {show})"
        severity = NOTE if any(way.startswith(PRINTED_AVERAGES) for way in fits) else INCONSISTENT
        yield Finding("claimed", severity, cell, str(value), f"{float(ways[first]):.{digits}f}", why)


def sizes(printed: Printed) -> Iterator[Finding]:
    """Table S6 prints parameters and MACs of networks that are built here; PATROL's server is everybody's server."""
    for cell, part, value in _of_parts(printed, "params_m"):
        built, digits = _parameters()[cell[2], part] / 1e6, 3 if part == "encoder" else 2
        if rounded(built, digits) != value:
            why = f"the network of the description has {built:.6f} million parameters"
            expected = str(rounded(built, digits))
            if value == truncated(built, digits):
                yield Finding("sizes", NOTE, cell, str(value), expected, f"{why}: truncated, not rounded")
                continue
            whole = sum(_parameters()[cell[2], one] for one in names.PARTS) / 1e6
            if abs(whole - float(value)) < abs(built - float(value)):
                why += f"; encoder and server together have {whole:.6f}"
            yield Finding("sizes", INCONSISTENT, cell, str(value), expected, why)
    servers = [cell for cell, part, _ in _of_parts(printed, "params_m", "mmac") if part == "server"]
    for cell, value in ((cell, printed[cell]) for cell in servers if cell[2] == "patrol"):
        other = printed.get(_with(cell, defense="others"))
        if other is not None and value != other:
            why = "PATROL changes the encoder alone, so its server is that of the other rows"
            yield Finding("sizes", INCONSISTENT, cell, str(value), str(other), why)


RULES: list[Callable[[Printed], Iterator[Finding]]] = [
    averages,
    psnr_of_mse,
    psnr_is_derived,
    printed_twice,
    cem_helps,
    train_is_easier,
    defence_helps,
    repeated_rows,
    out_of_range,
    far_off,
    claimed,
    sizes,
]


def audit(printed: Printed) -> list[Finding]:
    """Every finding of every rule: errors first, then by table in printed order."""
    found = [finding for rule in RULES for finding in rule(printed)]
    order = (ERROR, INCONSISTENT, NOTE)
    return sorted(found, key=lambda finding: (order.index(finding.severity), finding.rule, finding.cell))


# -- looking up


_PLACE = {
    name: index for index, name in enumerate(("table", "dataset", "defense", "cem", "attacker", "split", "metric"))
}


def _of(printed: Printed, **wanted: str) -> Iterator[tuple[Cell, Decimal]]:
    for cell, value in printed.items():
        if all(cell[_PLACE[name]] == word for name, word in wanted.items()):
            yield cell, value


def _of_parts(printed: Printed, *metrics: str) -> Iterator[tuple[Cell, str, Decimal]]:
    """(cell, part of the network, value) of the rows of Table S6."""
    for metric, part in product(metrics, names.PARTS):
        for cell, value in _of(printed, metric=f"{part}_{metric}"):
            yield cell, part, value


def _with(cell: Cell, **changes: str) -> Any:
    return tuple(changes.get(name, cell[index]) for name, index in _PLACE.items())


def _dataset(printed: Printed, table: str) -> str:
    return next(cell[1] for cell in printed if cell[0] == table)


def _table_of(printed: Printed, dataset: str, metric: str) -> str | None:
    found = {cell[0] for cell in printed if cell[1] == dataset and cell[6] == metric and cell[2] in ROWS}
    return min(found, default=None)


def _psnr_and_mse(printed: Printed, split: str = "infer") -> Iterator[tuple[Cell, Decimal, float]]:
    """(cell of the PSNR, PSNR, MSE of the same run) of every row; averages of the two do not correspond."""
    for table, other in SAME_RUNS.items():
        for cell, mse in _of(printed, table=table, metric="mse", split=split):
            place = _with(cell, table=other, metric="psnr_db", split="infer")
            if place in printed and cell[2] != "average" and mse > 0:
                yield place, printed[place], float(mse)


def _psnr_range(mse: float) -> tuple[float, float]:
    """The dB that an MSE printed as `mse` may mean, whether it was rounded or truncated."""
    return -10 * math.log10(mse + 1e-4), -10 * math.log10(max(mse - 0.5e-4, 1e-6))


# -- claims


@cache
def _claims() -> pd.DataFrame:
    with files("benchmark.analysis").joinpath("claims.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def _sides(printed: Printed, table: str, claim: dict, cem: str, defense: str) -> list[Decimal]:
    """Both attackers' values of one row; [] where one is missing."""
    cells = [
        (table, claim["dataset"], defense, cem, attacker, claim["split"], claim["metric"])
        for attacker in names.ATTACKERS
    ]
    return [printed[cell] for cell in cells] if all(cell in printed for cell in cells) else []


def _means(printed: Printed, table: str, claim: dict) -> dict:
    rows = [_sides(printed, table, claim, claim["cem"], row) for row in ROWS]
    average = _sides(printed, table, claim, claim["cem"], "average")
    ways = {"from the rows": mean([value for row in rows for value in row])} if all(rows) else {}
    return ways | ({PRINTED_AVERAGES: mean(average)} if average else {})


def _gains(printed: Printed, table: str, claim: dict) -> dict:
    """Percent by which CEM raises the mean MSE, averaged over both attackers, and other ways to compute it."""
    ways = {}
    rows = {cem: [_sides(printed, table, claim, cem, row) for row in ROWS] for cem in ("off", "on")}
    if all(rows["off"]) and all(rows["on"]):
        columns = {cem: [mean([row[i] for row in rows[cem]]) for i in range(2)] for cem in rows}
        ratios = [on / off - 1 for off, on in zip(columns["off"], columns["on"], strict=True)]
        ways["as the mean over attackers of ratios of column means"] = 100 * sum(ratios) / 2
        ways["as the ratio of the means over everything"] = 100 * (sum(columns["on"]) / sum(columns["off"]) - 1)
        cells = [
            mean([b]) / mean([a]) - 1
            for one, other in zip(rows["off"], rows["on"], strict=True)
            for a, b in zip(one, other, strict=True)
            if a
        ]
        ways["as the mean of the cells' ratios"] = 100 * sum(cells) / len(cells)
    for name, read in ((PRINTED_AVERAGES, list), (CORRECTED_AVERAGES, _decimal_points_put_right)):
        averages = _average_sides(printed, table, claim["dataset"], read)
        if not averages:
            continue
        both = [averages[attacker, claim["split"]] for attacker in names.ATTACKERS]
        ways[name] = 100 * sum(on / off - 1 for off, on in both) / 2
        ways[f"{name} of both attackers together"] = _ratio(both)
        if name == CORRECTED_AVERAGES:
            for attacker in names.ATTACKERS:
                title = names.attacker_title(attacker)
                sides = [averages[attacker, split] for split in ("train", "infer")]
                ways[f"of the {title} attack alone, over both splits"] = _ratio(sides)
    return ways


def _ratio(sides: list[tuple[Fraction, Fraction]]) -> Fraction:
    """Percent by which the sum of the second sides exceeds that of the first."""
    zero = Fraction(0)
    return 100 * (sum((on for _, on in sides), zero) / sum((off for off, _ in sides), zero) - 1)


def _average_sides(printed: Printed, table: str, dataset: str, read) -> dict[tuple[str, str], tuple]:
    """(without, with CEM) of each printed average MSE, by attacker and split; {} where one is missing."""
    sides = {}
    for attacker, split in product(names.ATTACKERS, ("train", "infer")):
        cells = [(table, dataset, "average", cem, attacker, split, "mse") for cem in ("off", "on")]
        if any(cell not in printed for cell in cells):
            return {}
        sides[attacker, split] = tuple(Fraction(value) for value in read([printed[cell] for cell in cells]))
    return sides


def _decimal_points_put_right(values: list[Decimal]) -> list[Decimal]:
    """Two averages; if they differ by a factor of about ten but their columns by less, the larger is divided by 10."""
    small, large = sorted(values)
    return [value.scaleb(-1) if value == large and large > 5 * small else value for value in values]


@cache
def _parameters() -> dict[tuple[str, str], int]:
    """Parameters of encoder and server as built here for Table S6's two rows."""
    found = {}
    for row, defense in (("patrol", "patrol"), ("others", "bottleneck")):
        settings = MatrixFile().settings("cifar10", defense, "off", [])
        kind = DEFENSES.get(defense)
        options = {"bottleneck": settings.model.bottleneck} | kind.model_options(settings.params)
        build: dict[str, Any] = {"classes": 10, "image_size": 32, "cut": settings.model.cut} | options
        model = models.build(settings.model.arch, **build)
        widths = kind.final_widths(settings.params, model.encoder.widths)
        model = models.build(settings.model.arch, **build, widths=widths)
        for part in names.PARTS:
            found[row, part] = sum(p.numel() for p in getattr(model, part).parameters())
    return found

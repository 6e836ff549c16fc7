"""The rules of the audit. Each takes all printed cells and yields contradictions; no misprint is hard-coded."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
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
FORMS, SPLITS = ("off", "on"), ("train", "infer")

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
        members = _along(printed, cell, "defense", ROWS)
        if not members:
            continue
        digits, exact = decimals(cell.metric), mean(members)
        right = rounded(exact, digits)
        if value == right:
            continue
        severity, why = ERROR, f"the mean of the seven rows is {float(exact):.{digits + 2}f}"
        if value == truncated(exact, digits):
            severity, why = NOTE, f"{why}: truncated, not rounded"
        elif any(rounded(exact * 10**shift, digits) == value for shift in (-3, -2, -1, 1, 2, 3)) or any(
            abs(value.scaleb(shift) - right) <= Decimal(1).scaleb(-digits) for shift in (-2, -1, 1, 2)
        ):
            why += ": the decimal point is misplaced"
        yield Finding("averages", severity, cell, str(value), str(right), why)


def psnr_of_mse(printed: Printed) -> Iterator[Finding]:
    """PSNR is -10 log10 of the MSE of the same run, up to the rounding of both and the spread between batches."""
    for cell, value, mse in _psnr_and_mse(printed):
        # what an MSE printed as `mse` may mean, whether it was rounded or truncated
        low, high = -10 * math.log10(mse + 1e-4), -10 * math.log10(max(mse - 0.5e-4, 1e-6))
        swapped = printed.get(cell._replace(attacker="gan" if cell.attacker == "decoder" else "decoder"))
        # a mean over batches of 128 lies above the PSNR of the mean by a few hundredths of a dB at most
        own_fits, swapped_fits = (
            psnr is not None and low - 0.01 <= float(psnr) <= high + 0.06 for psnr in (value, swapped)
        )
        if own_fits:
            continue
        severity, why = ERROR, f"the printed MSE {mse} means {low:.2f} to {high:.2f} dB"
        if swapped_fits:
            why = f"the two attackers' values are swapped: {swapped} fits the MSE {mse}"
        elif abs(float(value) + 10 * math.log10(mse)) < 0.5:
            severity = INCONSISTENT
        yield Finding("psnr_of_mse", severity, cell, str(value), f"{-10 * math.log10(mse):.2f}", why)


def psnr_is_derived(printed: Printed) -> Iterator[Finding]:
    """A PSNR that was measured is not exactly -10 log10 of an MSE that was rounded to four decimals.

    A measured PSNR agrees to the last digit with chance 1 / n, where n two-decimal values are possible given the
    rounding of the MSE. p is the chance of at least this many agreements among one attacker's values of a table, times
    the four tries made: rounded or truncated, from the MSE of the infer or of the train split.
    """
    found: dict[Cell, dict[tuple[str, str], list[tuple[bool, float]]]] = {}  # by one attacker's values of a table
    for split, (how, digits) in product(("infer", "train"), (("rounded", rounded), ("truncated", truncated))):
        for cell, value, mse in _psnr_and_mse(printed, split):
            chance = min(1.0, 0.01 / (10 * math.log10((mse + 0.5e-4) / max(mse - 0.5e-4, 1e-6))))
            agrees = value == digits(-10 * math.log10(mse), 2)
            tries = found.setdefault(cell._replace(defense="", cem=""), {})
            tries.setdefault((split, how), []).append((agrees, chance))
    for cell, tries in found.items():
        split, how = min(tries, key=lambda name: (_chance_of_as_many(tries[name]), -len(tries[name]), name))
        hits = tries[split, how]
        p = len(tries) * _chance_of_as_many(hits)
        if p < 1e-3:
            agree = f"{sum(agrees for agrees, _ in hits)} of {len(hits)} values agree to the last digit"
            why = f"{agree}, by chance with probability {p:.0e}"
            source = f"-10 log10 of the printed {split} MSE, {how}"
            yield Finding("psnr_is_derived", NOTE, cell, source, "a measurement of its own", why)


def _chance_of_as_many(trials: list[tuple[bool, float]]) -> float:
    """P(at least as many successes) of independent (success, its chance) (Poisson binomial, exact)."""
    distribution = np.ones(1)
    for _, chance in trials:
        distribution = np.convolve(distribution, [1 - chance, chance])
    return float(distribution[sum(success for success, _ in trials) :].sum())


def printed_twice(printed: Printed) -> Iterator[Finding]:
    """An accuracy stands in the table of MSE and in that of SSIM and PSNR, and is the same.

    If it is not, the printed averages tell which is right: the wrong one is that from which no average follows.
    """
    for table, other in SAME_RUNS.items():
        for cell, value in _of(printed, table=table, metric="accuracy_percent"):
            twin = cell._replace(table=other)
            second = printed.get(twin)
            if second is None or second == value:
                continue
            wrong, right = (cell, twin) if not _average_follows(printed, cell) else (twin, cell)
            settled = _average_follows(printed, cell) != _average_follows(printed, twin)
            why = f"Table {right.table} prints {printed[right]}"
            why += ", from which the printed average follows" if settled else ""
            why += ": the same digits in another order" if sorted(str(value)) == sorted(str(second)) else ""
            yield Finding("printed_twice", INCONSISTENT, wrong, str(printed[wrong]), str(printed[right]), why)


def _average_follows(printed: Printed, cell: Cell) -> bool:
    """Whether the average printed in the cell's table or in its twin follows from this table's rows."""
    members = _along(printed, cell, "defense", ROWS)
    if not members:
        return False
    digits, exact = decimals(cell.metric), mean(members)
    averages = _of(printed, dataset=cell.dataset, defense="average", cem=cell.cem, metric=cell.metric)
    return any(value in (rounded(exact, digits), truncated(exact, digits)) for _, value in averages)


def cem_helps(printed: Printed) -> Iterator[Finding]:
    """The paper: with CEM every row has a higher MSE and a lower SSIM and PSNR."""
    for cell, value in _of(printed, cem="on"):
        without, raises = printed.get(cell._replace(cem="off")), names.metric(cell.metric).raises
        if without is None or cell.metric == "accuracy_percent":
            continue
        if (value <= without) if raises else (value >= without):
            expected = f"{'above' if raises else 'below'} {without}"
            why = f"without CEM it is {without}, and CEM is said to help in every row"
            yield Finding("cem_helps", INCONSISTENT, cell, str(value), expected, why)


def train_is_easier(printed: Printed) -> Iterator[Finding]:
    """An attacker fitted on the training set does not rebuild worse than one fitted on nine tenths of the test set."""
    for cell, infer in _of(printed, metric="mse", split="infer"):
        train = printed.get(cell._replace(split="train"))
        if train is not None and infer < train and cell.defense != "average":
            why = f"fitted on far fewer images the attacker does better than on the training set ({train})"
            yield Finding("train_is_easier", NOTE, cell, str(infer), f"at least {train}", why)


def defence_helps(printed: Printed) -> Iterator[Finding]:
    """A defended row is harder to invert than the undefended row of its table."""
    for cell, plain in _of(printed, defense="none", metric="mse"):
        for row, cem in product(ROWS, FORMS):
            where = cell._replace(defense=row, cem=cem)
            value = printed.get(where)
            if value is not None and value <= plain:
                why = f"no harder to invert than without any defence ({plain})"
                yield Finding("defence_helps", INCONSISTENT, where, str(value), f"above {plain}", why)


def repeated_rows(printed: Printed) -> Iterator[Finding]:
    """Two rows of one table do not agree in three or more measured values."""
    rows: dict[tuple[str, str, str, str], dict[tuple, Decimal]] = {}  # by table, data set, defence and CEM
    for cell, value in printed.items():
        if cell.metric in ("mse", "ssim", "psnr_db") and cell.defense in ROWS:
            rows.setdefault(cell[:4], {})[cell[4:]] = value
    for (first, one), (second, other) in combinations(rows.items(), 2):
        same = [where for where in one if one[where] == other.get(where)]
        if first[0] == second[0] and len(same) >= 3:
            why = f"{len(same)} of its values are those of {names.row_label(*first[2:])}"
            cell = Cell(*second, *same[0])
            yield Finding("repeated_rows", INCONSISTENT, cell, str(other[same[0]]), "a value of its own", why)


def out_of_range(printed: Printed) -> Iterator[Finding]:
    """Accuracy lies in 0 to 100 %, MSE and SSIM in 0 to 1, PSNR above 0 dB."""
    limits = {"accuracy_percent": (0, 100), "mse": (0, 1), "ssim": (0, 1), "psnr_db": (0, 100)}
    for cell, value in printed.items():
        low, high = limits.get(cell.metric, (0, math.inf))
        if not low <= value <= high:
            yield Finding("out_of_range", ERROR, cell, str(value), f"{low} to {high}", "outside the metric's range")


def far_off(printed: Printed) -> Iterator[Finding]:
    """The attackers' columns of one row differ by factors, not by powers of ten: a slipped decimal point."""
    for cell, value in _of(printed, metric="mse"):
        places = (cell._replace(attacker=attacker, split=split) for attacker, split in product(names.ATTACKERS, SPLITS))
        others = sorted(float(printed[place]) for place in places if place != cell and printed.get(place))
        if len(others) == 3 and value and cell.defense != "average":
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
    for claim in _claims().itertuples():
        tables = {
            cell.table for cell, _ in _of(printed, dataset=claim.dataset, metric=claim.metric) if cell.defense in ROWS
        }
        if not tables:
            continue
        cell = Cell(min(tables), claim.dataset, "average", claim.cem, "both", claim.split, claim.metric)
        if claim.kind == "gain":
            ways, digits, what = _gains(printed, cell), 1, "gain in percent"
        else:
            ways, digits, what = _means(printed, cell), decimals(claim.metric), "average over both attackers"
        value, first = Decimal(str(claim.value)), next(iter(ways), None)
        fits = [way for way, exact in ways.items() if value in (rounded(exact, digits), truncated(exact, digits))]
        if first is None or first in fits:
            continue
        show = ", ".join(f"{float(exact):.{digits}f} {way}" for way, exact in ways.items())
        told = f"it is that {fits[0]}" if fits else "no reading gives it"
        why = f"{what} claimed in the {claim.source}; {told} (the table gives {show})"
        severity = NOTE if any(way.startswith(PRINTED_AVERAGES) for way in fits) else INCONSISTENT
        yield Finding("claimed", severity, cell, str(value), f"{float(ways[first]):.{digits}f}", why)


def sizes(printed: Printed) -> Iterator[Finding]:
    """Table S6 prints parameters and MACs of networks that are built here; PATROL's server is everybody's server."""
    for part, digits in (("encoder", 3), ("server", 2)):
        for cell, value in _of(printed, metric=f"{part}_params_m"):
            built = _parameters()[cell.defense, part] / 1e6
            whole = sum(_parameters()[cell.defense, one] for one in names.PARTS) / 1e6
            right = rounded(built, digits)
            if value == right:
                continue
            severity, why = INCONSISTENT, f"the network of the description has {built:.6f} million parameters"
            if value == truncated(built, digits):
                severity, why = NOTE, f"{why}: truncated, not rounded"
            elif abs(whole - float(value)) < abs(built - float(value)):
                why += f"; encoder and server together have {whole:.6f}"
            yield Finding("sizes", severity, cell, str(value), str(right), why)
    for metric in ("server_params_m", "server_mmac"):
        for cell, value in _of(printed, metric=metric, defense="patrol"):
            other = printed.get(cell._replace(defense="others"))
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


def audit(printed: dict[Any, Decimal]) -> list[Finding]:
    """Every finding of every rule: errors first, then by table in printed order. The keys are Cells, or like them."""
    printed = {Cell(*cell): value for cell, value in printed.items()}
    found = [finding for rule in RULES for finding in rule(printed)]
    order = (ERROR, INCONSISTENT, NOTE)
    return sorted(found, key=lambda finding: (order.index(finding.severity), finding.rule, finding.cell))


# -- looking up


def _of(printed: Printed, **wanted: str) -> Iterator[tuple[Cell, Decimal]]:
    for cell, value in printed.items():
        if all(getattr(cell, name) == word for name, word in wanted.items()):
            yield cell, value


def _along(printed: Printed, cell: Cell, axis: str, values: Iterable[str]) -> list[Decimal]:
    """What is printed where the cell has each of these values on an axis; [] where one is missing."""
    cells = [cell._replace(**{axis: value}) for value in values]
    return [printed[each] for each in cells] if all(each in printed for each in cells) else []


def _psnr_and_mse(printed: Printed, split: str = "infer") -> Iterator[tuple[Cell, Decimal, float]]:
    """(cell of the PSNR, PSNR, MSE of the same run) of every row; averages of the two do not correspond."""
    for table, other in SAME_RUNS.items():
        for cell, mse in _of(printed, table=table, metric="mse", split=split):
            place = cell._replace(table=other, metric="psnr_db", split="infer")
            if place in printed and cell.defense != "average" and mse > 0:
                yield place, printed[place], float(mse)


# -- claims


@cache
def _claims() -> pd.DataFrame:
    with files("benchmark.analysis").joinpath("claims.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def _means(printed: Printed, cell: Cell) -> dict[str, Fraction]:
    """The mean over both attackers, from the rows and from their printed averages."""
    rows = [_along(printed, cell._replace(defense=row), "attacker", names.ATTACKERS) for row in ROWS]
    average = _along(printed, cell, "attacker", names.ATTACKERS)
    ways = {"from the rows": mean([value for row in rows for value in row])} if all(rows) else {}
    return ways | ({PRINTED_AVERAGES: mean(average)} if average else {})


def _gains(printed: Printed, cell: Cell) -> dict[str, Fraction]:
    """Percent by which CEM raises the mean MSE, averaged over both attackers, and other ways to compute it."""
    ways = {}
    columns = [
        [_along(printed, cell._replace(defense=row, attacker=attacker), "cem", FORMS) for row in ROWS]
        for attacker in names.ATTACKERS
    ]
    if all(map(all, columns)):
        means = [[mean(side) for side in zip(*column, strict=True)] for column in columns]
        ways["as the mean over attackers of ratios of column means"] = _mean_of_ratios(means)
        ways["as the ratio of the means over everything"] = _ratio_of_means(means)
        ways["as the mean of the cells' ratios"] = _mean_of_ratios([row for rows in columns for row in rows if row[0]])
    averages = {
        (attacker, split): _along(printed, cell._replace(attacker=attacker, split=split), "cem", FORMS)
        for attacker, split in product(names.ATTACKERS, SPLITS)
    }
    if not all(averages.values()):
        return ways
    corrected = {place: _decimal_points_put_right(sides) for place, sides in averages.items()}
    for name, found in ((PRINTED_AVERAGES, averages), (CORRECTED_AVERAGES, corrected)):
        both = [found[attacker, cell.split] for attacker in names.ATTACKERS]
        ways[name] = _mean_of_ratios(both)
        ways[f"{name} of both attackers together"] = _ratio_of_means(both)
    for attacker in names.ATTACKERS:
        way = f"of the {names.attacker_title(attacker)} attack alone, over both splits"
        ways[way] = _ratio_of_means([corrected[attacker, split] for split in SPLITS])
    return ways


def _mean_of_ratios(sides: Sequence[Sequence]) -> Fraction:
    """Mean percent by which the second of two sides exceeds the first."""
    return 100 * sum((Fraction(on) / Fraction(off) - 1 for off, on in sides), Fraction(0)) / len(sides)


def _ratio_of_means(sides: Sequence[Sequence]) -> Fraction:
    """Percent by which the mean of the second sides exceeds that of the first."""
    off, on = (mean(side) for side in zip(*sides, strict=True))
    return 100 * (on / off - 1)


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

"""What the page's charts show, as positions and words; templates/charts.html.j2 draws them as SVG."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import pandas as pd

from benchmark.analysis import names
from benchmark.analysis.diff import TOLERANCES
from benchmark.analysis.frame import Summary, summarise
from benchmark.report.page.axes import Axis, axis

LEFT, RIGHT, TOP, BOTTOM = 66, 408, 12, 252  # the plot within the view box, which is 420 wide and 300 high
SERIES = 9  # colours of the style sheet, and shapes of the template
_LETTER, _LINE = 6.4, 13.0  # size of a letter of a label, about
# where a label may stand beside its point, the best first: dx, dy, text-anchor
_PLACES = ((9, 4, "start"), (-9, 4, "end"), (0, -9, "middle"), (0, 18, "middle"), (7, -7, "start"), (-7, -7, "end"))


@dataclass(frozen=True)
class Mark:
    """A point. filled: with CEM; series: its colour and shape; text: what it says of itself; cell: filter axes."""

    x: float
    y: float
    series: int
    filled: bool
    text: str
    cell: dict[str, str]


@dataclass(frozen=True)
class Line:
    """points: the SVG's list of them; arrow: with a head at its end; dashed: without CEM."""

    points: str
    series: int
    dashed: bool
    arrow: bool
    cell: dict[str, str]


@dataclass(frozen=True)
class Label:
    x: float
    y: float
    anchor: str
    text: str
    cell: dict[str, str]


@dataclass
class Facet:
    """One chart: title, description for those who do not see it, filter axes that hold for all of it."""

    title: str
    description: str
    cell: dict[str, str]
    x: Axis
    y: Axis
    lines: list[Line] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    band: str = ""  # the points of an area behind all, or ""


@dataclass(frozen=True)
class Key:
    """An entry of a legend."""

    series: int
    text: str


def defenses(frame: pd.DataFrame) -> list[str]:
    """The printed ones in their order, and the frame's others by name; the position is the series, in every suite."""
    printed = ["none", *names.DEFENSES]
    return printed + sorted(set(frame["defense"]) - {*printed, "others"})


def legend(frame: pd.DataFrame) -> list[Key]:
    """Of those defences that the frame has an accuracy of."""
    seen = set(frame[frame["metric"] == "accuracy_percent"]["defense"])
    return [Key(i % SERIES, names.row_label(name, "off")) for i, name in enumerate(defenses(frame)) if name in seen]


def attack_title(attacker: str, split: str) -> str:
    return f"{names.ATTACKERS.get(attacker, attacker)}, {split}" if attacker != "none" else split


def tradeoff(frame: pd.DataFrame) -> list[Facet]:
    """Accuracy against the attacker's MSE, an arrow from CEM off to each form of it; a chart for each attack."""
    facets, several = [], frame["suite"].nunique() > 1  # a sweep has a suite for each of its points
    keys = ["suite", "protocol", "dataset", "attacker", "split"]
    for (suite, protocol, dataset, attacker, split), part in _grouped(frame, keys):
        if attacker == "none":
            continue
        mse = _means(part[part["metric"] == "mse"])
        rows = frame[(frame["suite"] == suite) & (frame["protocol"] == protocol) & (frame["dataset"] == dataset)]
        accuracy = _means(rows[rows["metric"] == "accuracy_percent"])
        points = {row: (mse[row], accuracy[row]) for row in mse if row in accuracy and mse[row].mean > 0}
        if points:
            cell = {"dataset": dataset, "protocol": protocol, "attacker": attacker, "split": split}
            facets.append(_tradeoff(points, defenses(frame), cell, f", {suite}" if several else ""))
    return facets


def _tradeoff(points: dict[tuple, tuple[Summary, Summary]], order: list[str], cell: dict, where: str) -> Facet:
    title = f"{names.dataset_title(cell['dataset'])}, {attack_title(cell['attacker'], cell['split'])}{where}"
    facet = Facet(
        title,
        f"Accuracy in percent against reconstruction MSE of {len(points)} rows; up and right is better for the "
        "defender. An arrow leads from a defence to the same with CEM.",
        cell,
        axis("MSE (log), harder to invert →", [m.mean for m, _ in points.values()], LEFT, RIGHT, log=True),
        axis("Accuracy (%)", [a.mean for _, a in points.values()], BOTTOM, TOP),
    )
    for defense, cem in sorted(points, key=lambda row: (order.index(row[0]), row[1])):
        mse, accuracy = points[defense, cem]
        series, own = order.index(defense) % SERIES, {"defense": defense, "cem": cem}
        x, y = facet.x.at(mse.mean), facet.y.at(accuracy.mean)
        text = f"{names.row_label(defense, cem)}: MSE {_with_spread(mse, 4)}, accuracy {_with_spread(accuracy, 2)} %"
        facet.marks.append(Mark(x, y, series, cem != "off", text, own))
        base = points.get((defense, "off"))
        if cem != "off" and base:
            start = (facet.x.at(base[0].mean), facet.y.at(base[1].mean))
            line = _shortened(start, (x, y))
            if line:
                facet.lines.append(Line(line, series, False, True, own))
    arrows = [line.points for line in facet.lines]
    facet.labels = _placed(facet.marks, arrows, [names.row_label(mark.cell["defense"], "off") for mark in facet.marks])
    return facet


def agreement(compared: pd.DataFrame) -> list[Facet]:
    """Produced against published values, a chart for each metric and protocol, with the band of the tolerance.

    compared: the rows of diff.diff() against the printed numbers. A point's series is its attacker's.
    """
    compared = compared[compared["produced"].notna() & compared["reference"].notna()]
    attackers = _attackers(compared)
    facets = []
    for (protocol, metric), part in _grouped(compared, ["protocol", "metric"]):
        if not names.metric(metric).better:  # sizes and times say nothing of the paper's claim
            continue
        kind, tolerance = TOLERANCES[metric]
        log = metric == "mse"
        values = [*part["reference"], *part["produced"]]
        title = names.metric(metric).title + {"accuracy_percent": " (%)", "psnr_db": " (dB)"}.get(metric, "")
        facet = Facet(
            f"{title}, protocol {protocol}",
            f"{len(part)} produced values against the published ones; on the diagonal they agree.",
            {"protocol": protocol},
            axis(f"Published {title}" + (" (log)" if log else ""), values, LEFT, RIGHT, log),
            axis(f"Produced {title}", values, BOTTOM, TOP, log),
        )
        facet.band = _band(facet, kind, tolerance)
        low, high = facet.x.low, facet.x.high
        ends = f"{facet.x.at(low)},{facet.y.at(low)} {facet.x.at(high)},{facet.y.at(high)}"
        facet.lines.append(Line(ends, -1, True, False, {}))
        digits = names.metric(metric).decimals
        for row in part.to_dict("records"):
            text = f"{names.dataset_title(row['dataset'])}, {names.row_label(row['defense'], row['cem'])}"
            text += f", {attack_title(row['attacker'], row['split'])}: produced {row['produced']:.{digits}f}"
            text += f", published {row['reference']:.{digits}f}, {row['verdict']} tolerance"
            cell = {axis: row[axis] for axis in ("dataset", "defense", "cem", "attacker", "split")}
            series = attackers.index(row["attacker"]) % SERIES
            place = facet.x.at(row["reference"]), facet.y.at(row["produced"])
            facet.marks.append(Mark(*place, series, row["cem"] != "off", text, filters(cell)))
        facets.append(facet)
    return facets


def agreement_legend(compared: pd.DataFrame) -> list[Key]:
    compared = compared[compared["produced"].notna() & compared["reference"].notna()]
    shown = {"none": "no attacker (accuracy)"}
    return [
        Key(index % SERIES, shown.get(name, names.ATTACKERS.get(name, name)))
        for index, name in enumerate(_attackers(compared))
    ]


def _attackers(frame: pd.DataFrame) -> list[str]:
    order = ["none", *names.ATTACKERS]
    return sorted(set(frame["attacker"]), key=lambda name: names.rank(name, order))


def _band(facet: Facet, kind: str, tolerance: float) -> str:
    """The area within the tolerance of the published value, as the points of a polygon."""
    low, high = facet.x.low, facet.x.high

    def point(value: float, sign: int) -> str:
        other = value * (1 + sign * tolerance) if kind == "relative" else value + sign * tolerance
        return f"{facet.x.at(value)},{facet.y.at(other)}"

    return " ".join([point(low, 1), point(high, 1), point(high, -1), point(low, -1)])


@dataclass(frozen=True)
class Curve:
    """One measured quantity over the epochs of a job; cell: its filter axes; seed as text; strength: a sweep's."""

    cell: dict[str, str]
    seed: str
    epochs: list[float]
    values: list[float]
    strength: str = ""


def training_curves(curves: list[Curve], quantity: str, log: bool = False) -> list[Facet]:
    """A chart for each defence: a line for each form of CEM and each seed; the series is the form's."""
    forms = sorted({curve.cell["cem"] for curve in curves}, key=names.form_rank)
    facets = []
    for cell, strength, group in _curves_by(curves, ("protocol", "dataset", "defense")):
        title = f"{names.dataset_title(cell['dataset'])}, {names.row_label(cell['defense'], 'off')}{strength}"
        facet = _curve_facet(group, title, quantity, cell, log)
        for curve in group:
            form = names.row_label("CEM", curve.cell["cem"]).removeprefix("CEM") or "without CEM"
            _add_line(facet, curve, forms.index(curve.cell["cem"]), form, {"cem": curve.cell["cem"]})
        facets.append(facet)
    return facets


def attack_curves(curves: list[Curve], order: list[str]) -> list[Facet]:
    """A chart for each attack: a line for each row of the table; the series is the defence's."""
    facets = []
    for cell, strength, group in _curves_by(curves, ("protocol", "dataset", "attacker", "split")):
        title = f"{names.dataset_title(cell['dataset'])}, {attack_title(cell['attacker'], cell['split'])}{strength}"
        facet = _curve_facet(group, title, "Loss while fitted (log)", cell, True)
        for curve in group:
            own = {"defense": curve.cell["defense"], "cem": curve.cell["cem"]}
            series = order.index(own["defense"]) % SERIES
            _add_line(facet, curve, series, names.row_label(own["defense"], own["cem"]), own)
        facets.append(facet)
    return facets


def _curves_by(curves: list[Curve], axes: tuple[str, ...]) -> list[tuple[dict[str, str], str, list[Curve]]]:
    """(the axes' values, the sweep's point as the end of a title, the curves that share both)."""
    groups: dict[tuple, list[Curve]] = {}
    for curve in curves:
        groups.setdefault((*(curve.cell[axis] for axis in axes), curve.strength), []).append(curve)
    return [
        (dict(zip(axes, key[:-1], strict=True)), f", {key[-1]}" if key[-1] else "", group)
        for key, group in groups.items()
    ]


def _curve_facet(group: list[Curve], title: str, quantity: str, cell: dict, log: bool) -> Facet:
    epochs = [epoch for curve in group for epoch in curve.epochs]
    values = [value for curve in group for value in curve.values]
    description = f"{quantity} over the epochs: {len(group)} lines."
    return Facet(
        title,
        description,
        cell,
        axis("Epoch", epochs, LEFT, RIGHT, whole=True),
        axis(quantity, values, BOTTOM, TOP, log),
    )


def _add_line(facet: Facet, curve: Curve, series: int, name: str, cell: dict) -> None:
    pairs = [
        (facet.x.at(epoch), facet.y.at(value))
        for epoch, value in zip(curve.epochs, curve.values, strict=True)
        if value > 0 or not facet.y.log
    ]
    if not pairs:
        return
    off = curve.cell["cem"] == "off"
    text = f"{name}, seed {curve.seed}: {curve.values[-1]:.4g} in epoch {curve.epochs[-1]:g}"
    facet.lines.append(Line(" ".join(f"{x},{y}" for x, y in pairs), series, off, False, cell))
    facet.marks.append(Mark(*pairs[-1], series, not off, text, cell))


def filters(cell: dict) -> dict:
    """An accuracy belongs to every attacker and split."""
    return {axis: value for axis, value in cell.items() if value not in ("none", "validation") or axis == "defense"}


def _grouped(frame: pd.DataFrame, columns: list[str]) -> Iterable:
    return frame.groupby(columns, sort=False)


def _means(frame: pd.DataFrame) -> dict[tuple[str, str], Summary]:
    """(defence, cem) -> the summary over seeds, of those with a value."""
    found = {(cell[1], cell[2]): summary for cell, summary in summarise(frame).items()}
    return {row: summary for row, summary in found.items() if summary.mean is not None}


def _with_spread(summary: Summary, digits: int) -> str:
    spread = summary.half_width
    return f"{summary.mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else "")


def _shortened(start: tuple, end: tuple, gap: float = 7.0) -> str:
    """A line between two points that leaves both free; "" where they lie too close together for one."""
    length = math.dist(start, end)
    if length < 2.5 * gap:
        return ""
    (x0, y0), (x1, y1) = start, end
    dx, dy = (x1 - x0) / length * gap, (y1 - y0) / length * gap
    return f"{x0 + dx:.1f},{y0 + dy:.1f} {x1 - dx:.1f},{y1 - dy:.1f}"


def _placed(marks: list[Mark], arrows: list[str], texts: list[str]) -> list[Label]:
    """One label for each defence, beside the first of its marks where there is room; none rather than an overlap."""
    taken = [(mark.x - 6, mark.y - 6, mark.x + 6, mark.y + 6) for mark in marks]
    taken += [(x - 1, y - 1, x + 1, y + 1) for arrow in arrows for x, y in _along(arrow)]
    labels, named = [], set()
    for mark, text in zip(marks, texts, strict=True):
        width = _LETTER * len(text)
        for dx, dy, anchor in _PLACES:
            if text in named:
                break
            left = mark.x + dx - {"start": 0, "middle": width / 2, "end": width}[anchor]
            box = (left, mark.y + dy - _LINE + 3, left + width, mark.y + dy + 3)
            inside = box[0] >= LEFT and box[2] <= RIGHT and box[1] >= TOP and box[3] <= BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                named.add(text)
                labels.append(Label(round(mark.x + dx, 1), round(mark.y + dy, 1), anchor, text, mark.cell))
    return labels


def _along(line: str, step: float = 5.0) -> list[tuple[float, float]]:
    """Points of a line, close enough together that no label fits between."""
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in line.split())
    count = max(2, math.ceil(math.dist((x0, y0), (x1, y1)) / step))
    return [(x0 + (x1 - x0) * index / count, y0 + (y1 - y0) * index / count) for index in range(count + 1)]


def _overlap(a: tuple, b: tuple) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

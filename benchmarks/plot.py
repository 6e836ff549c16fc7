"""The findings as one figure: rates, features, roofline, growth."""

from pathlib import Path

from benchmark.report.drawing import BLUE, GREEN, MARKS, ORANGE, PURPLE, SKY, VERMILLION, drawing, write_figure
from benchmarks import cases


def draw(found, out: Path) -> list[Path]:
    """Write speed.svg and speed.png below `out`; returns the paths."""
    with drawing() as figure_class:
        figure = figure_class(figsize=(13, 9.5), layout="constrained")
        panels = figure.subplots(2, 2)
        for panel, part in zip(panels.flat, (_rates, _features, _roofline, _growth), strict=True):
            part(panel, found)
            panel.spines[["top", "right"]].set_visible(False)
        quick = " (quick run: the times say nothing)" if found.quick else ""
        figure.suptitle(f"{found.record['device']}, {found.plan.precision}, torch {found.record['torch']}{quick}")
        return [write_figure(figure, out / f"speed.{kind}", dpi=130) for kind in ("svg", "png")]


def _rates(panel, found) -> None:
    here = [c for g in (cases.TRAINING, cases.ATTACKS) for c in found.groups(g) if c.variant == cases.HERE]
    places = range(len(here))
    panel.barh([place - 0.2 for place in places], [case.rate for case in here], 0.4, color=BLUE, label="here")
    based = [(place, found.find(case.group, case.what, case.base)) for place, case in enumerate(here) if case.base]
    panel.barh(
        [place + 0.2 for place, _ in based], [case.rate for _, case in based], 0.4, color=ORANGE, hatch="//",
        edgecolor="white", label="plain eager fp32 script",
    )  # fmt: skip
    for place, case in enumerate(here):
        if case.base:
            panel.text(case.rate, place - 0.2, f" {found.ratio(case):.1f}x", va="center", fontsize=8)
    panel.set_yticks(list(places), [case.what for case in here])
    panel.invert_yaxis()
    panel.set_xlabel("images/s")
    panel.set_title("Rate of each kind of step")
    panel.legend(frameon=False, fontsize=8)


def _features(panel, found) -> None:
    rows = [case for case in found.groups(cases.FEATURES) if case.variant != cases.HERE]
    values = [case.fastest / found.find(case.group, case.what).fastest for case in rows]
    colours = [BLUE if case.what == "training" else GREEN for case in rows]
    panel.barh(range(len(rows)), values, 0.6, color=colours)
    for place, value in enumerate(values):
        panel.text(value, place, f" {value:.2f}", va="center", fontsize=8)
    panel.axvline(1, color="black", linewidth=0.8)
    panel.set_yticks(range(len(rows)), [f"{case.what}: {case.variant}" for case in rows])
    panel.invert_yaxis()
    panel.set_xlabel("time of a step / time with everything on")
    panel.set_title("Each feature off alone")


def _roofline(panel, found) -> None:
    points = [case for case in found.timed if case.flop == case.flop]
    intensities = [case.flop / case.traffic for case in points]
    knees = [peak / found.bandwidth for peak in found.peaks.values()]
    low, high = min(knees + intensities) / 4, max(knees + intensities) * 4
    for (name, peak), style in zip(found.peaks.items(), ("--", "-"), strict=False):
        knee = peak / found.bandwidth
        panel.plot(
            [low, knee, high], [low * found.bandwidth / 1e9, peak / 1e9, peak / 1e9], style, color="black",
            label=f"measured: {name} {peak / 1e9:,.0f} GFLOP/s, {found.bandwidth / 1e9:,.0f} GB/s",
        )  # fmt: skip
    colours = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION)
    for number, (case, intensity) in enumerate(zip(points, intensities, strict=True)):
        panel.plot(
            intensity, case.flop / case.fastest / 1e9, MARKS[number % len(MARKS)], color=colours[number % len(colours)],
            markersize=8, label=case.what,
        )  # fmt: skip
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel("FLOP per byte that the operators read and write")
    panel.set_ylabel("GFLOP/s")
    panel.set_title("Roofline")
    panel.legend(frameon=False, fontsize=7, loc="lower right")


def _growth(panel, found) -> None:
    series: dict[str, list[tuple[float, float]]] = {}
    for case in found.groups(cases.SCALING):
        series.setdefault(case.what, []).append((int(case.variant), case.fastest))
    if len(found.cells) > 1:  # the time in which that many cells each take a step
        series["training step against cells at once"] = [(n, n / rate) for n, rate in found.cells.items()]
    colours = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION)
    for number, (what, points) in enumerate(series.items()):
        (size, time), *_ = points
        panel.plot(
            [x / size for x, _ in points], [y / time for _, y in points], marker=MARKS[number % len(MARKS)],
            color=colours[number % len(colours)], label=what,
        )  # fmt: skip
    if not series:  # not measured, or not yet
        return
    widest = max(points[-1][0] / points[0][0] for points in series.values())
    panel.plot([1, widest], [1, widest], ":", color="black", label="in proportion")
    panel.set_xscale("log", base=2)
    panel.set_yscale("log", base=2)
    panel.set_xlabel("size / smallest size measured")
    panel.set_ylabel("time / time at the smallest size")
    panel.set_title("How cost grows")
    panel.legend(frameon=False, fontsize=7)

"""The figures themselves: each takes the frame that data.py made for it and its width in inches, and returns a
matplotlib Figure."""

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd

from benchmark.analysis import names
from benchmark.report.numbers import with_half_width
from benchmark.report.plots import style
from benchmark.report.plots.style import BLACK, COLUMN, GREY, looks, ordered, panel_title, tell

SMALLEST = 1e-9  # of the largest value: a logarithmic axis reaches no further down
PANEL = 1.65  # inches that a panel takes of a figure's width
SMALLEST_MARK = 2.2  # points
PALE = 0.25  # the opacity of numbers that must not be interpreted
HATCHES = ["", "////", "....", "xxxx", "||||", "oooo", "----"]


def tradeoff(frame: pd.DataFrame, width: float = COLUMN):
    """Accuracy against MSE, an arrow from each row without CEM to the same row with it. frame: data.attacks."""
    frame = frame.dropna(subset=["mse", "accuracy_percent"])
    figure, panels = _panels(frame, width, 1.45)
    for panel, rows in panels:
        for defense in ordered(rows["defense"]):
            _arrows(panel, rows[rows["defense"] == defense], *looks(frame["defense"])[defense])
        panel.margins(0.12)
    figure.supxlabel("reconstruction MSE (pixels in [0, 1])")
    figure.supylabel("accuracy (%)")
    marks = [_mark("open: without CEM", BLACK, "o", filled=False), _mark("filled: with CEM", BLACK, "o")]
    defenses = [_defense_mark(name, looks(frame["defense"])) for name in ordered(frame["defense"])]
    _legend(figure, [*defenses, *marks, *_pale(frame)])
    _apart(figure)
    return figure


def _apart(figure) -> None:
    """Make marks with a near neighbour smaller, so that they do not overlap, as far as both stay visible."""
    figure.draw_without_rendering()  # positions of marks are known only after the layout
    for panel in figure.axes:
        marks = [line for line in panel.lines if len(line.get_xydata()) == 1 and line.get_gid()]
        places = panel.transData.transform([line.get_xydata()[0] for line in marks]) * 72 / figure.dpi
        for index, line in enumerate(marks):
            others = np.delete(places, index, axis=0)
            nearest = min((math.dist(places[index], other) for other in others), default=math.inf)
            line.set_markersize(min(line.get_markersize(), max(SMALLEST_MARK, nearest)))


def _arrows(panel, rows: pd.DataFrame, colour: str, marker: str) -> None:
    """One defence: an open mark without CEM, a filled one with it, whiskers where there are intervals."""
    base = rows[rows["cem"] == "off"]
    for row in rows.itertuples():
        filled = row.cem != "off" or marker in "x+"
        face = colour if filled else "white"
        container = panel.errorbar(
            row.mse,
            row.accuracy_percent,
            xerr=_half(row.mse_half_width),
            yerr=_within(row.accuracy_percent, row.accuracy_half_width, 0, 100),
            fmt=marker,
            color=colour,
            markerfacecolor=face,
            markeredgecolor=colour if marker in "x+" or not filled else "black",
            markeredgewidth=0.8 if not filled or marker in "x+" else 0.3,
            elinewidth=0.5,
            alpha=PALE if row.doubt else None,
            zorder=3,
        )
        accuracy = with_half_width(row.accuracy_percent, row.accuracy_half_width, 2)
        tell(container[0], f"{_row(row.defense, row.cem)}: MSE {_mse(row)}, accuracy {accuracy} %{_because(row)}")
        if row.cem != "off" and len(base):
            start = (base["mse"].iloc[0], base["accuracy_percent"].iloc[0])
            arrow: dict[str, Any] = dict(arrowstyle="-|>", color=colour, lw=0.8, shrinkA=3, shrinkB=3, mutation_scale=6)
            arrow["alpha"] = PALE if row.doubt or base["doubt"].iloc[0] else None
            panel.annotate("", (row.mse, row.accuracy_percent), start, arrowprops=arrow, zorder=2)


def against(frame: pd.DataFrame, width: float = COLUMN):
    """Published against produced values, a panel for each metric, the tolerance shaded. frame: data.against."""
    found = frame["metric"].map(names.base_metric)
    metrics = [name for name in names.METRICS if name in set(found)]
    figure, grid = _grid(len(metrics), width, 1.6)
    colours = {"": (BLACK, "x"), "decoder": (style.BLUE, "o"), "gan": (style.ORANGE, "^")}
    for panel, metric in zip(grid, metrics, strict=True):
        rows = frame[found == metric]
        both = pd.concat([rows["published"], rows["produced"]])
        logarithmic = metric == "mse" and both.min() > SMALLEST * both.max()
        low, high = _span(both.min(), both.max(), logarithmic)
        line = [low * (high / low) ** (i / 50) if logarithmic else low + (high - low) * i / 50 for i in range(51)]
        _band(panel, np.array(line), rows)
        panel.plot(line, line, color=GREY, linewidth=0.5, zorder=1)
        for attacker, part in rows.groupby("attacker", sort=False):
            colour, marker = colours.get(attacker, (style.GREEN, "s"))
            for row in part.itertuples():
                (mark,) = panel.plot(
                    row.published,
                    row.produced,
                    marker,
                    color=colour,
                    markersize=3,
                    markerfacecolor=colour if row.cem != "off" or marker == "x" else "white",
                    markeredgewidth=0.6,
                )
                digits = names.metric(metric).decimals
                text = f"{_row(row.defense, row.cem)}, {row.split or row.metric}: published {row.published:.{digits}f}"
                tell(mark, f"{text}, produced {row.produced:.{digits}f}")
        if logarithmic:
            panel.set(xscale="log", yscale="log")
            _plain_ticks(panel.xaxis, low, high)
            _plain_ticks(panel.yaxis, low, high)
        panel.set(xlim=(low, high), ylim=(low, high), title=names.metric(metric).axis or metric, box_aspect=1)
    figure.supxlabel("published")
    figure.supylabel("produced")
    seen = list(dict.fromkeys(frame["attacker"]))
    titles = [f"{names.attacker_title(name)} attack" if name else "no attacker" for name in seen]
    marks = [_mark(title, *colours.get(name, (style.GREEN, "s"))) for name, title in zip(seen, titles, strict=True)]
    marks += [_mark("open: without CEM", BLACK, "o", filled=False), _mark("filled: with CEM", BLACK, "o")]
    equal = "equal (shaded: tolerance)" if frame["tolerance"].notna().any() else "equal"
    _legend(figure, [*marks, _line(equal, GREY)])
    return figure


def _band(panel, line: np.ndarray, rows: pd.DataFrame) -> None:
    tolerance, relative = rows["tolerance"].iloc[0], rows["kind"].iloc[0] == "relative"
    if math.isnan(tolerance):
        return
    reach = tolerance * np.abs(line) if relative else tolerance
    panel.fill_between(line, line - reach, line + reach, color="#EEEEEE", linewidth=0, zorder=0)


def bars(frame: pd.DataFrame, width: float = COLUMN):
    """MSE of every defence with and without CEM, with 95 % intervals where there are several seeds."""
    rows_of = ordered(frame["defense"])
    variants = _variants(frame)
    figure, panels = _panels(frame, width, 0.4 + 0.075 * (len(variants) + 1) * len(rows_of), sharey=True)
    thick = 0.8 / len(variants)
    for panel, rows in panels:
        rows = rows.set_index(["defense", "cem"])
        for index, cem in enumerate(variants):
            for place, defense in enumerate(rows_of):
                if (defense, cem) in rows.index:
                    row = rows.loc[(defense, cem)]
                    (bar,) = panel.barh(
                        place + (index - (len(variants) - 1) / 2) * thick,
                        row["mse"],
                        thick,
                        xerr=_half(row["mse_half_width"]),
                        color=_variant_colour(cem, index),
                        hatch=_hatch(index),
                        edgecolor="black",
                        linewidth=0.4,
                        alpha=PALE if row["doubt"] else None,
                        error_kw={"elinewidth": 0.6, "capsize": 1.5, "capthick": 0.6},
                    )
                    tell(bar, f"{_row(defense, cem)}: MSE {_mse(row)}{_because(row)}")
        panel.set_xlim(left=0)
        panel.set_yticks(range(len(rows_of)), [names.row_label(name, "off") for name in rows_of])
        panel.grid(axis="y", visible=False)
    panels[0][0].set_ylim(len(rows_of) - 0.5, -0.5)  # the first row on top, as in the tables
    seeds = frame["seeds"].max()
    note = f"; 95 % interval, {seeds} seeds" if frame["mse_half_width"].notna().any() else ""
    figure.supxlabel(f"reconstruction MSE (pixels in [0, 1]){note}")
    forms = [_patch(_cem_label(cem), _variant_colour(cem, i), _hatch(i)) for i, cem in enumerate(variants)]
    _legend(figure, [*forms, *_pale(frame)])
    return figure


def training(frame: pd.DataFrame, width: float = COLUMN):
    """Loss and accuracy by epoch, a column of panels for each form of CEM; the mean over seeds, their range shaded.

    frame: data.histories.
    """
    metrics = {
        "loss": "loss",
        "train_accuracy_percent": "accuracy (%),\ntraining images",
        "selection_accuracy_percent": "accuracy (%),\nselection images",
    }
    metrics = {name: title for name, title in metrics.items() if name in frame}
    variants, look = _variants(frame), looks(frame["defense"])
    count = len(metrics) * len(variants)
    figure, grid = _grid(count, width, 1.15, columns=len(variants), sharex=True, sharey="row")
    for panel, (metric, cem) in zip(grid, itertools.product(metrics, variants), strict=True):
        for defense in ordered(frame["defense"]):
            runs = frame[(frame["defense"] == defense) & (frame["cem"] == cem)].groupby("epoch")[metric]
            middle, low, high = runs.mean(), runs.min(), runs.max()
            lone = "o" if len(middle) == 1 else None  # one epoch gives no line
            (line,) = panel.plot(middle.index, middle, color=look[defense][0], marker=lone, markersize=2)
            if len(middle):
                tell(line, f"{_row(defense, cem)}: {middle.iloc[-1]:.4g} in epoch {middle.index[-1]:g}")
            panel.fill_between(middle.index, low, high, color=look[defense][0], alpha=0.2, linewidth=0)
        panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    for panel, cem in zip(grid, variants, strict=False):
        panel.set_title(_cem_label(cem))
    for panel, title in zip(grid[:: len(variants)], metrics.values(), strict=True):
        panel.set_ylabel(title)
    figure.supxlabel("epoch")
    _legend(figure, [_line(names.row_label(name, "off"), look[name][0]) for name in ordered(frame["defense"])])
    return figure


def fitting(frame: pd.DataFrame, width: float = COLUMN):
    """Each attacker's loss by epoch, the mean over seeds. frame: data.histories of attacks, with losses above 0."""
    look = looks(frame["defense"])
    figure, panels = _panels(frame, width, 1.3)
    for panel, rows in panels:
        for (defense, cem), runs in rows.groupby(["defense", "cem"], sort=False):
            middle = runs.groupby("epoch")["loss"].mean()
            style_of = {"linestyle": "-" if cem != "off" else "--", "marker": "o" if len(middle) == 1 else None}
            (line,) = panel.plot(middle.index, middle, color=look[defense][0], markersize=2, **style_of)
            tell(line, f"{_row(defense, cem)}: {middle.iloc[-1]:.4g} in epoch {middle.index[-1]:g}")
        panel.set_yscale("log")
        _plain_ticks(panel.yaxis, *panel.get_ylim())
        panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    figure.supxlabel("epoch")
    figure.supylabel("loss of the attacker")
    lines = [_line(names.row_label(name, "off"), look[name][0]) for name in ordered(frame["defense"])]
    _legend(figure, [*lines, _line("dashed: without CEM", BLACK, "--"), _line("solid: with CEM", BLACK)])
    return figure


def images(frame: pd.DataFrame, width: float = COLUMN):
    """The MSE of single images: boxes from the first to the third quartile, whiskers to 5 and 95 %."""
    rows_of, variants = ordered(frame["defense"]), _variants(frame)
    figure, panels = _panels(frame, width, 0.4 + 0.075 * (len(variants) + 1) * len(rows_of), sharey=True)
    thick = 0.8 / len(variants)
    for panel, rows in panels:
        for row in rows.to_dict("records"):
            index = variants.index(row["cem"])
            box = dict(med=row["p50"], q1=row["p25"], q3=row["p75"], whislo=row["p5"], whishi=row["p95"], fliers=[])
            drawn = panel.bxp(
                [box],
                positions=[rows_of.index(row["defense"]) + (index - (len(variants) - 1) / 2) * thick],
                widths=0.85 * thick,
                orientation="horizontal",
                patch_artist=True,
                manage_ticks=False,
                showfliers=False,
                boxprops={
                    "facecolor": _variant_colour(row["cem"], index),
                    "linewidth": 0.4,
                    "hatch": _hatch(index),
                },
                medianprops={"color": "black", "linewidth": 1},
                whiskerprops={"linewidth": 0.5},
                capprops={"linewidth": 0.5},
            )
            tell(drawn["boxes"][0], f"{_row(row['defense'], row['cem'])}: half of its images below {row['p50']:.4f}")
        panel.set_xscale("log")
        panel.set_yticks(range(len(rows_of)), [names.row_label(name, "off") for name in rows_of])
        panel.grid(axis="y", visible=False)
    for panel, _ in panels:
        _plain_ticks(panel.xaxis, *panel.get_xlim())
    panels[0][0].set_ylim(len(rows_of) - 0.5, -0.5)
    figure.supxlabel("MSE of one image (pixels in [0, 1])")
    _legend(figure, [_patch(_cem_label(cem), _variant_colour(cem, i), _hatch(i)) for i, cem in enumerate(variants)])
    return figure


# -- pieces


def _grid(count: int, width: float, height: float, columns: int | None = None, **options):
    """A figure of `count` panels, each `height` inches high, and its panels in order. columns: panels in a row; without
    it as many as fit `width`."""
    from matplotlib.figure import Figure

    columns = min(columns or round(width / PANEL), count)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(width, lines * height + 0.7), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, **options).ravel()
    for spare in grid[count:]:
        spare.remove()
    return figure, grid[:count]


def _panels(frame: pd.DataFrame, width: float, height: float, **options):
    """A figure and its panels with their rows of the frame: one for each (attacker, split), in the frame's order.

    So the splits of an attacker stand side by side.
    """
    groups = list(frame.groupby(["attacker", "split"], sort=False))
    figure, grid = _grid(len(groups), width, height, **options)
    for panel, (pair, _) in zip(grid, groups, strict=True):
        panel.set_title(panel_title(*pair))
    return figure, [(panel, rows) for panel, (_, rows) in zip(grid, groups, strict=True)]


def _variants(frame: pd.DataFrame) -> list[str]:
    """The forms of CEM, off first."""
    return sorted(set(frame["cem"]), key=names.form_rank)


def _variant_colour(cem: str, index: int) -> str:
    known = {"off": "#BBBBBB", "on": style.BLUE}
    return known.get(cem) or (style.ORANGE, style.GREEN, style.PURPLE)[index % 3]


def _hatch(index: int) -> str:
    return HATCHES[index % len(HATCHES)]


def _cem_label(cem: str) -> str:
    return {"off": "without CEM", "on": "with CEM"}.get(cem, f"CEM ({cem})")


_row = names.row_label


def _mse(row) -> str:
    return with_half_width(row.mse, row.mse_half_width, 4)


def _because(row) -> str:
    return f" ({row.doubt})" if row.doubt else ""


def _pale(frame: pd.DataFrame) -> list:
    """The legend's entry on pale marks, where there are any."""
    from matplotlib.lines import Line2D

    return [Line2D([], [], ls="", label="pale: blind, or at chance")] if (frame["doubt"] != "").any() else []


def _half(width: float):
    """An error bar's half-length, or none."""
    return None if math.isnan(width) else width


def _within(value: float, width: float, low: float, high: float):
    """An error bar's half-lengths, cut at the limits of possible values, or none."""
    return None if math.isnan(width) else [[min(width, value - low)], [min(width, high - value)]]


def _span(low: float, high: float, logarithmic: bool) -> tuple[float, float]:
    """An axis a little wider than its values."""
    if logarithmic:
        factor = (high / low) ** 0.08 if high > low else 1.5
        return low / factor, high * factor
    gap = 0.08 * (high - low) or 0.5
    return low - gap, high + gap


def _plain_ticks(axis, low: float, high: float) -> None:
    """Logarithmic ticks at 1, 2, 5 written as decimals, few of them."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5) if low <= digit * 10.0**power <= high]
    if len(ticks) > 4:
        decades = [tick for tick in ticks if math.isclose(math.log10(tick) % 1, 0, abs_tol=1e-9)]
        ticks = decades if len(decades) >= 2 else ticks[:: math.ceil(len(ticks) / 4)]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _mark(label: str, colour: str, marker: str, filled: bool = True):
    from matplotlib.lines import Line2D

    face = colour if filled or marker == "x" else "white"
    return Line2D([], [], ls="", marker=marker, color=colour, markerfacecolor=face, markeredgewidth=0.8, label=label)


def _defense_mark(name: str, look: dict):
    return _mark(names.row_label(name, "off"), *look[name])


def _line(label: str, colour: str, linestyle: Any = "-"):
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, label=label, linestyle=linestyle)


def _patch(label: str, colour: str, hatch: str):
    from matplotlib.patches import Patch

    return Patch(facecolor=colour, hatch=hatch, edgecolor="black", linewidth=0.4, label=label)


def _legend(figure, handles) -> None:
    columns = (3 if len(handles) > 6 else 2) * round(figure.get_figwidth() / COLUMN)
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, columnspacing=1.2)

"""The figures: what is drawn is the data, nothing leaves the page, and the same results give the same bytes."""

import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from benchmark.analysis import names, published
from benchmark.analysis.frame import COLUMNS, half_width
from benchmark.metrics.reconstruction import QUANTILES
from benchmark.report.plots import data, drawings, figures, style
from benchmark.store.store import Store
from benchmark.training import checkpoint
from tests.support.command_line import finished  # noqa: F401 (fixture)

POINT = 72.0


def made(values: dict[tuple, list[float]], defense_name=lambda name: name) -> pd.DataFrame:
    """A tidy frame: (defense, cem, attacker, split, metric) -> a value for each seed."""
    rows = []
    for (defense, cem, attacker, split, metric), found in values.items():
        cell = dict(suite="s", dataset="cifar10", defense=defense_name(defense), cem=cem, protocol="published")
        cell["kind"] = "attack" if attacker else "train"
        cell |= dict(attacker=attacker, split=split, metric=metric, status="done", reason="", key="", label="")
        rows += [{**cell, "seed": str(seed), "value": value} for seed, value in enumerate(found, 1)]
    return pd.DataFrame(rows, columns=COLUMNS)


VALUES = {
    ("bottleneck", "off", "", "", "accuracy_percent"): [90.0, 91.0],
    ("bottleneck", "on", "", "", "accuracy_percent"): [89.0, 89.5],
    ("bottleneck", "off", "decoder", "infer", "mse"): [0.010, 0.012],
    ("bottleneck", "on", "decoder", "infer", "mse"): [0.020, 0.023],
    ("dropout", "off", "", "", "accuracy_percent"): [88.0],
    ("dropout", "off", "decoder", "infer", "mse"): [0.03],
}


def whole_suite(seeds: int) -> pd.DataFrame:
    """Every printed cell of CIFAR-10, shaken, for each seed."""
    rng = np.random.default_rng(0)
    frame = published.reference()
    frame = frame[(frame["dataset"] == "cifar10") & (frame["kind"] != "efficiency")]
    parts = [
        frame.assign(seed=str(seed), value=frame["value"] * rng.normal(1, 0.05, len(frame))) for seed in range(seeds)
    ]
    return pd.concat(parts, ignore_index=True)


def trainings(variants=("off", "on"), epochs: int = 5) -> pd.DataFrame:
    steps = np.arange(1, epochs + 1)
    return pd.concat(
        [
            pd.DataFrame({"epoch": steps, "loss": 3 / steps, "selection_accuracy_percent": 10.0 * steps}).assign(
                defense=defense, cem=cem, seed=seed
            )
            for defense in style.DEFENSES
            for cem in variants
            for seed in (1, 2)
        ]
    )


def fits(frame: pd.DataFrame) -> pd.DataFrame:
    rows = data.attacks(frame)
    return pd.concat([rows.assign(seed=1, epoch=epoch, loss=rows["mse"] * (1 + 5 / epoch)) for epoch in (1, 2, 3)])


def quantiles(frame: pd.DataFrame) -> pd.DataFrame:
    rows = data.attacks(frame)
    spread = dict(zip(QUANTILES, (0.1, 0.2, 0.5, 1, 2, 5, 10), strict=True))
    return rows.assign(images=9, **{f"p{q}": rows["mse"] * factor for q, factor in spread.items()})


def every_figure(frame: pd.DataFrame, width: float = style.COLUMN) -> dict:
    attacks = data.attacks(frame)
    with matplotlib.rc_context(style.RC):
        return {
            "tradeoff": figures.tradeoff(attacks, width),
            "bars": figures.bars(attacks, width),
            "published": figures.against(data.against(frame, published.reference()), width),
            "training": figures.training(trainings(), width),
            "fitting": figures.fitting(fits(frame), width),
            "images": figures.images(quantiles(frame), width),
        }


def test_many_forms_of_cem():
    """More than anybody has: each is drawn, and looks otherwise than the ones beside it."""
    forms = ["off", "on", *(f"form{n}" for n in range(10))]
    values = {("bottleneck", form, "decoder", "infer", "mse"): [0.01 + n / 1000] for n, form in enumerate(forms)}
    values |= {("bottleneck", form, "", "", "accuracy_percent"): [80.0 + n] for n, form in enumerate(forms)}
    with matplotlib.rc_context(style.RC):
        assert figures.tradeoff(data.attacks(made(values))) and figures.training(trainings(variants=forms))
        for figure in (figures.bars(data.attacks(made(values))), figures.images(quantiles(made(values)))):
            labels = [text.get_text() for text in figure.legends[0].get_texts()]
            assert len(labels) == len(set(labels)) == len(forms)
    looks = [(figures._variant_colour(form, n), figures._hatch(n)) for n, form in enumerate(forms)]
    assert len(set(looks)) == len(forms)


# -- what is drawn is the data


def test_attacks_have_the_means_and_the_t_intervals_of_their_seeds():
    rows = data.attacks(made(VALUES)).set_index(["defense", "cem"])
    row = rows.loc[("bottleneck", "on")]
    assert row["mse"] == pytest.approx(0.0215) and row["accuracy_percent"] == pytest.approx(89.25)
    assert row["mse_half_width"] == pytest.approx(half_width([0.020, 0.023]))
    assert row["mse_half_width"] == pytest.approx(12.7062 * 0.0015, rel=1e-4)  # t(0.975, 1) * standard error
    assert row["seeds"] == 2
    assert math.isnan(rows.loc[("dropout", "off")]["mse_half_width"])


def test_an_arrow_leads_from_off_to_on():
    figure = figures.tradeoff(data.attacks(made(VALUES)))
    (panel,) = figure.axes
    (arrow,) = panel.texts
    assert arrow.xyann == pytest.approx((0.011, 90.5)) and arrow.xy == pytest.approx((0.0215, 89.25))
    ends = {tuple(np.round(line.get_xydata()[0], 6)) for line in panel.lines if len(line.get_xydata()) == 1}
    assert {(0.011, 90.5), (0.0215, 89.25), (0.03, 88.0)} <= ends


def test_marks_that_are_near_are_small_and_no_whisker_leaves_the_scale():
    def drawn(accuracy):
        values = {("bottleneck", cem, "decoder", "infer", "mse"): [0.01] for cem in ("off", "on")}
        values |= {("dropout", "off", "decoder", "infer", "mse"): [0.03]}
        places = (("bottleneck", "off", 99.0), ("bottleneck", "on", accuracy), ("dropout", "off", 60.0))
        for defense, cem, value in places:
            values[(defense, cem, "", "", "accuracy_percent")] = [value - 1, value + 1]
        with matplotlib.rc_context(style.RC):
            (panel,) = figures.tradeoff(data.attacks(made(values))).axes
        marks = [line for line in panel.lines if line.get_gid()]
        tops = [segment[:, 1].max() for lines in panel.collections for segment in lines.get_segments()]
        return sorted(line.get_markersize() for line in marks), max(tops)

    large = style.RC["lines.markersize"]
    assert drawn(80.0) == ([large] * 3, 100)
    (one, other, alone), _ = drawn(98.0)
    assert figures.SMALLEST_MARK <= one == other < alone == large


def test_bars_are_as_long_as_the_mse_and_only_several_seeds_have_intervals():
    figure = figures.bars(data.attacks(made(VALUES)))
    (panel,) = figure.axes
    assert sorted(bar.get_width() for bar in panel.patches) == pytest.approx([0.011, 0.0215, 0.03])
    segments = [segment for lines in panel.collections for segment in lines.get_segments()]
    spans = sorted((segment[0][0] + segment[1][0]) / 2 for segment in segments)
    assert spans == pytest.approx([0.0215])  # none for one seed, nor where the interval would reach below zero
    assert all(segment[0][0] >= 0 for segment in segments) and panel.get_xlim()[0] == 0
    assert [label.get_text() for label in panel.get_yticklabels()] == ["Bottleneck", "Dropout"]


def test_published_against_produced_shows_every_common_cell():
    frame = made(VALUES)
    shown = data.against(frame, published.reference())
    assert len(shown) == len(VALUES)
    row = shown[(shown["defense"] == "bottleneck") & (shown["cem"] == "on") & (shown["metric"] == "mse")].iloc[0]
    printed = published.printed("1")[("bottleneck", "on", "decoder", "infer", "mse")]
    assert (row["published"], row["produced"]) == pytest.approx((printed, 0.0215))
    assert data.against(frame.assign(dataset="photos"), published.reference()).empty
    panel = next(panel for panel in figures.against(shown).axes if panel.get_title().startswith("MSE"))
    points = {tuple(np.round(xy, 6)) for line in panel.lines if len(line.get_xydata()) < 10 for xy in line.get_xydata()}
    assert (printed, 0.0215) in points and len(points) == 3


def test_training_curves_are_means_over_seeds_in_the_panel_of_their_form_of_cem():
    frame = pd.DataFrame(
        [["bottleneck", "off", seed, epoch, seed * epoch] for seed in (1, 3) for epoch in (1, 2)]
        + [["bottleneck", "on", 1, epoch, 7.0] for epoch in (1, 2)],
        columns=["defense", "cem", "seed", "epoch", "loss"],
    )
    off, on = figures.training(frame).axes
    assert (off.get_title(), on.get_title()) == ("without CEM", "with CEM")
    assert off.lines[0].get_xydata().tolist() == [[1, 2], [2, 4]]
    assert on.lines[0].get_xydata().tolist() == [[1, 7], [2, 7]]


def test_curves_of_attacks_are_means_over_seeds_dashed_without_cem():
    frame = pd.DataFrame(
        [["gan", "train", "dropout", "off", seed, epoch, seed / epoch] for seed in (1, 3) for epoch in (1, 2)]
        + [["gan", "train", "dropout", "on", 1, epoch, 7.0] for epoch in (1, 2)],
        columns=["attacker", "split", "defense", "cem", "seed", "epoch", "loss"],
    )
    (panel,) = figures.fitting(frame).axes
    assert [line.get_xydata().tolist() for line in panel.lines] == [[[1, 2], [2, 1]], [[1, 7], [2, 7]]]
    assert [line.get_linestyle() for line in panel.lines] == ["--", "-"] and panel.get_yscale() == "log"


def test_every_mark_says_what_it_is():
    """A title in the SVG for each point, bar, box and line, with its numbers; and no mark of matplotlib's own."""
    frame = whole_suite(3)
    expected = {"tradeoff": 60, "bars": 60, "published": len(data.against(frame, published.reference()))}
    expected |= {"training": 2 * 2 * 8, "fitting": 60, "images": 60}
    first = data.attacks(frame).iloc[0]
    for name, figure in every_figure(frame).items():
        with matplotlib.rc_context(style.RC):
            root = xml.etree.ElementTree.fromstring(style.svg(figure))
        titles = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
        assert len(titles) == expected[name], name
        assert all(re.match(r"(No defence|Bottle|Dist|Drop|PATROL|ResSFL|Noise_).*\d", title) for title in titles), name
        if name == "bars":
            assert titles[0] == f"No defence: MSE {first['mse']:.4f} ± {first['mse_half_width']:.4f}"


# -- at the widths of a column and of a page


def beyond(figure) -> list[Text]:
    """The labels of ticks outside their axis, which matplotlib keeps and does not draw."""
    found = []
    for axis in (axis for panel in figure.axes for axis in (panel.xaxis, panel.yaxis)):
        low, high = sorted(axis.get_view_interval())
        ticks = axis.get_major_ticks() + axis.get_minor_ticks()
        found += [label for t in ticks if not low <= t.get_loc() <= high for label in (t.label1, t.label2)]
    return found


def require_room(figure, name: str, width: float) -> None:
    """Every text stands inside the page, and none on another."""
    canvas = FigureCanvasAgg(figure)
    with matplotlib.rc_context(style.RC):
        canvas.draw()
    renderer, page = canvas.get_renderer(), figure.bbox
    assert figure.get_figwidth() == width, name
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    shown = [text for text in shown if text not in beyond(figure)]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in shown]
    for text, box in boxes:
        assert page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1, (name, text)
        assert page.y0 - 1 <= box.y0 and box.y1 <= page.y1 + 1, (name, text)
    for index, (text, box) in enumerate(boxes):
        for other, against in boxes[:index]:
            wide = min(box.x1, against.x1) - max(box.x0, against.x0)
            high = min(box.y1, against.y1) - max(box.y0, against.y0)
            assert wide <= 1 or high <= 1, (name, text, other)


@pytest.mark.parametrize("width", [style.COLUMN, style.PAGE])
@pytest.mark.parametrize("seeds", [1, 3])
def test_every_text_has_room(seeds, width):
    for name, figure in every_figure(whole_suite(seeds), width).items():
        require_room(figure, name, width)
        assert figure.get_figheight() < 6, name


@pytest.mark.parametrize("width", [style.COLUMN, style.PAGE])
def test_the_long_names_of_further_attackers_have_room_and_stand_in_their_order(width):
    """`standard (chosen) attack, infer` ran out of the page."""
    values = {("bottleneck", cem, "", "", "accuracy_percent"): [90.0] for cem in ("off", "on")}
    for number, attacker in enumerate(names.STRONGER):
        for cem, factor in (("off", 1), ("on", 1.5)):
            values[("bottleneck", cem, attacker, "infer", "mse")] = [factor * (0.01 + number / 1000)]
    rows = data.attacks(made(values))
    assert list(dict.fromkeys(rows["attacker"])) == list(names.STRONGER)
    for name, draw in (("tradeoff", figures.tradeoff), ("bars", figures.bars)):
        with matplotlib.rc_context(style.RC):
            figure = draw(rows, width)
        require_room(figure, name, width)


def test_rows_are_told_apart_by_colour_and_by_marker():
    looks = list(style.looks([*style.DEFENSES, "mine", "yours"]).values())
    assert len({marker for _, marker in looks}) == len(looks)
    colours = [colour for colour, _ in looks]
    assert len(set(colours)) == len(colours)
    okabe_ito = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}
    assert {colour for colour, _ in style.DEFENSES.values()} <= okabe_ito | {style.GREY}


# -- the files


def written(place, out, *where):  # noqa: F811
    cells = place.cells(*where)
    from benchmark.analysis.collect import tidy_frame

    store = Store(place.results)
    return drawings.write(drawings.drawings(cells, store, tidy_frame(cells, store)), out)


@pytest.mark.slow
def test_report_writes_them_beside_the_tables(finished, tmp_path):  # noqa: F811
    outcome = finished.call("report", "--tables", tmp_path, "--plots")
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "smoke" / "plots"
    stems = {path.stem for path in folder.iterdir()} - {"README"}
    names = ("tradeoff", "bars", "training", "fitting", "images")  # nothing is printed for photos
    attacks = [f"{split}-{attacker}" for split in ("train", "infer") for attacker in ("decoder", "gan")]
    montages = {f"reconstructions-photos-published-{attack}" for attack in attacks}
    wide = {stem for stem in stems if stem.endswith("-wide")}  # PDF alone
    assert wide == {f"{name}-photos-wide" for name in names}
    stems -= wide
    assert stems == {f"{name}-photos" for name in names} | montages
    written = [path for path in folder.parent.rglob("*") if path.is_file()]
    assert f"{len(written)} files in {folder.parent}" in outcome.out
    for stem in stems - montages:
        root = xml.etree.ElementTree.parse(folder / f"{stem}.svg").getroot()
        assert float(root.get("width").removesuffix("pt")) == pytest.approx(3.25 * POINT)
        for pdf, inches in ((f"{stem}.pdf", 3.25), (f"{stem}-wide.pdf", 6.875)):
            (box,) = re.findall(rb"/MediaBox \[ ?0 0 ([0-9.]+) ", (folder / pdf).read_bytes())
            assert float(box) == pytest.approx(inches * POINT)
        assert len(pd.read_csv(folder / f"{stem}.csv")) > 0
    index = (folder / "README.md").read_text()
    assert all(f"{stem}.svg" in index for stem in stems - montages)
    assert "(reduced run: not at the published setting)" in (folder / "bars-photos.svg").read_text()
    assert "Protocol published, seed 125." in index and "Not at the published setting: " in index
    spread = pd.read_csv(folder / "images-photos.csv")
    cell = finished.cells("defense=dropout,cem=on,attacker=gan,split=train")[-1]
    values = checkpoint.load(Store(finished.results).path(cell.job) / "per_image.safetensors")["mse"].numpy()
    row = spread[(spread["defense"] == "dropout") & (spread["cem"] == "on")]
    row = row[(row["attacker"] == "gan") & (row["split"] == "train")].iloc[0]
    assert row["images"] == len(values) and row["p50"] == pytest.approx(np.median(values), rel=1e-6)
    assert row["p5"] == pytest.approx(np.quantile(values, 0.05), rel=1e-6)


@pytest.mark.slow
def test_the_same_results_give_the_same_bytes_in_another_process(finished, tmp_path):  # noqa: F811
    where = ["attacker=decoder,split=infer"]
    here = {path.name: path.read_bytes() for path in written(finished, tmp_path / "here", *where)}
    words = finished.words("report", "--tables", tmp_path, "--plots", "--where", *where)
    done = subprocess.run(
        [sys.executable, "-m", "benchmark", *map(str, words)],
        env=os.environ | {"PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "12345"},
        capture_output=True,
        timeout=300,
        check=True,
    )
    assert done.returncode == 0
    plots = tmp_path.glob("smoke*/plots/*")
    there = {path.name: path.read_bytes() for path in plots if not path.name.startswith("reconstructions")}
    assert here.keys() == there.keys()
    assert [name for name in here if here[name] != there[name]] == []


def test_names_of_any_kind_are_text(tmp_path):
    hostile = "a_$b$\\frac{%<&"
    frame = made(VALUES, lambda name: hostile if name == "dropout" else name)
    drawn = drawings.drawings([], Store(tmp_path), frame.assign(dataset="x/$y$", label=hostile))
    paths = drawings.write(drawn, tmp_path / "plots")
    stems = {"tradeoff-x-y", "bars-x-y"}
    assert {path.stem for path in paths} == {*stems, *(f"{name}-wide" for name in stems), "README"}
    assert all(path.parent == tmp_path / "plots" for path in paths)


def test_odd_numbers_are_drawn_or_left_out():
    """What a stranger's results may hold: numbers no axis holds together, epochs that are none."""
    losses = [[1, 0.5], [2, math.inf], [math.nan, 1.0], [3, -1.0], [4, math.nan]]
    fits = pd.DataFrame([["gan", "train", "dropout", "on", 1, *line] for line in losses])
    fits.columns = [*data.ATTACKED, "seed", "epoch", "loss"]
    assert drawings._fitted(fits)["epoch"].tolist() == [1] and drawings._fitted(fits.drop(columns="loss")).empty
    for value in (1e-300, 1e100, 0.0, -1.0):
        frame = made(VALUES | {("dropout", "off", "decoder", "infer", "mse"): [value]})
        assert style.svg(figures.against(data.against(frame, published.reference())))


def test_nothing_finished_is_no_figure(tmp_path):
    frame = made(VALUES).assign(status="missing", value=math.nan)
    assert drawings.write(drawings.drawings([], Store(tmp_path), frame), tmp_path / "plots") == []
    assert not (tmp_path / "plots").exists()

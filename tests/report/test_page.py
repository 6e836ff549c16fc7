"""The HTML page: what it holds, that nothing of the results becomes markup, and how it behaves in a browser."""

import base64
import csv
import io
import json
import re
import shutil
import time
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmark.analysis import published
from benchmark.analysis.frame import CELL, half_width
from benchmark.analysis.verdicts import verdicts
from benchmark.errors import UserError
from benchmark.matrix.cells import Point
from benchmark.report.findings import findings
from benchmark.report.page import answer, build_page, compared, strips
from benchmark.report.page.drawn import inline
from benchmark.report.page.grades import graded
from benchmark.report.plots import style
from benchmark.report.tables import build_tables
from tests.jobs.test_pictures import tiles
from tests.report.test_report import HELPED, SPREAD, frame_of, pair
from tests.support.browser import chromium, complaints, needed, prefer, requests, resize
from tests.support.simulated import simulate

HOSTILE = "<script>alert(1)</script>\"'&]]>"


def two_rows(value: dict) -> None:
    """A small CIFAR-100 suite: two defences, both attackers and splits."""
    value["suites"]["cifar100"]["defense"] = ["bottleneck", "patrol"]
    for attack in value["attacks"].values():
        attack |= {"epochs": 4} if "epochs" in attack else {}
    value["train"]["epochs"] = 6


def shortened(value: dict) -> None:
    two_rows(value)
    value["suites"]["cifar100"]["set"] = {"train.epochs": 3}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("small"), "cifar100", two_rows, seeds=(125, 126, 127))


@pytest.fixture(scope="module")
def page(small) -> str:
    return build_page(findings(*small))


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text.replace("<!DOCTYPE html>", ""))


# -- what it holds


XLINK = "{http://www.w3.org/1999/xlink}href"
SVG = "{http://www.w3.org/2000/svg}"


def test_the_page_is_well_formed_and_loads_nothing(page):
    """Links lead on, when clicked; nothing else names a file. No id stands twice, whatever the figures."""
    tree = parsed(page)
    for element in (element for element in tree.iter() if element.tag != "a"):
        for name in ("src", "href", "action", "data", XLINK):
            target = element.get(name)
            assert target is None or target.startswith(("data:image/", "#")), target
    assert "url(http" not in page and "@import" not in page and page.count("<script") == 1
    identifiers = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(identifiers) == len(set(identifiers))
    inner = [element.get(XLINK, "")[1:] for element in tree.iter(f"{SVG}use")] + re.findall(r"url\(#([^)]*)\)", page)
    links = [link.get("href")[1:] for link in tree.iter("a") if link.get("href").startswith("#")]
    assert inner and links and set(inner) | set(links) <= set(identifiers)


@pytest.mark.usefixtures("no_pdfs")
def test_links_lead_to_what_the_report_writes_beside_the_page(tmp_path):
    """Every file of the report, the log of each job and the documents, where they lie beside the folder of tables."""
    from benchmark.report.write import write

    cells, store = simulate(tmp_path, "cifar100", two_rows)
    for cell in cells:
        (store.path(cell.job) / "log.txt").write_text("")
        (store.path(cell.job) / "SHA256SUMS").unlink()
    out = tmp_path / "tables" / "cifar100"
    write(cells, store, out, False, [])
    tree = parsed(build_page(findings(cells, store), out=out))
    links = [link.get("href") for link in tree.iter("a") if not link.get("href").startswith(("#", "https://"))]
    assert all((out / link).is_file() for link in links), links
    assert {"results.csv", "S5.tex", "plots/tradeoff-cifar100.pdf"} <= set(links)
    assert sum(link.endswith("log.txt") for link in links) == len({cell.job.key for cell in cells})
    elsewhere = build_page(findings(cells, store, figures=False), out=tmp_path / "far" / "away" / "cifar100")
    assert "log.txt" not in elsewhere and str(tmp_path) not in elsewhere and "plots/" not in elsewhere


def test_every_value_and_its_published_one_stand_in_the_tables(small, page):
    cells, store = small
    text = {name: dict(rows_of(parsed(page), f"table-{name}")) for name in ("S5", "S2")}
    printed = {tuple(row[name] for name in CELL): row["value"] for row in published.reference().to_dict("records")}
    seen = 0
    for cell in cells:
        if cell.kind != "attack":
            continue
        both = [other for other in cells if other.job.cell | {"seed": 0} == cell.job.cell | {"seed": 0}]
        both = [other for other in both if (other.attacker, other.split) == (cell.attacker, cell.split)]
        values = [store.metrics(other.job)["values"]["mse"] for other in both]
        mean, spread = sum(values) / len(values), half_width(values)
        assert len(both) == 3
        label = {"bottleneck": "Bottleneck", "patrol": "PATROL"}[cell.defense] + ("+CEM" if cell.cem == "on" else "")
        column = 1 + ["decodertrain", "decoderinfer", "gantrain", "ganinfer"].index(cell.attacker + cell.split)
        found = text["S5"][label][column]
        reference = printed["cifar100", cell.defense, cell.cem, cell.attacker, cell.split, "mse"]
        assert f"{mean:.4f} ± {spread:.4f}" in found and f"({reference:.4f})" in found
        seen += 1
    assert seen == 2 * 2 * 4 * 3


def rows_of(tree: ElementTree.Element, table: str) -> list[tuple[str, list[str]]]:
    article = next(element for element in tree.iter("article") if element.get("id") == table)
    body = next(article.iter("tbody"))
    return [("".join(row[0].itertext()), ["".join(cell.itertext()) for cell in row[1:]]) for row in body]


def test_printed_rows_that_the_suite_lacks_are_named_below_the_table(page):
    article = next(element for element in parsed(page).iter("article") if element.get("id") == "table-S5")
    labels = ["DistCorr", "DistCorr+CEM", "Dropout", "Dropout+CEM", "ResSFL", "ResSFL+CEM", "Noise_Nopeek"]
    text = "".join(article.itertext())
    assert f"not in this suite: {', '.join(labels)}, " in text


def test_deviations_are_graded_in_tolerances():
    """MSE has a tolerance of 20 % of the published value; a sign goes with every colour."""
    frame = published.reference().query("dataset == 'cifar100' and metric == 'mse'")
    for factor, grade in ((1.0, 0), (1.19, 0), (0.81, 0), (1.21, 1), (0.79, 1), (1.41, 2), (0.55, 2), (1.81, 3)):
        scaled = frame.assign(value=frame["value"] * factor)
        (table,) = [table for table in build_tables(scaled, verdicts(scaled), compare=True) if table.number == "S5"]
        found = [cell for row in table.rows if row.defense == "patrol" for _, cell in graded(table, row)[1:]]
        assert {cell.grade for cell in found} == {grade} and len(found) == 8
        if factor != 1:
            assert {cell.higher for cell in found} == {factor > 1}


def test_a_shortened_suite_is_not_coloured_and_tells_its_departures_once(tmp_path):
    text = build_page(findings(*simulate(tmp_path, "cifar100", shortened)))
    assert text.count("train.epochs 3 (published 6)") == 1
    assert "▲" not in text and "≈" not in text and "within tolerance" not in text
    assert 'title="published 0.0007"' in text


def test_pictures_are_those_of_the_store(small, page):
    """The strips of the page, decoded, are pixel for pixel what the attack left; FaceScrub never comes in."""
    cells, store = small
    images = {element.get("alt"): element.get("src") for element in parsed(page).iter("img")}
    assert len(images) > 20
    cell = next(c for c in cells if (c.defense, c.cem, c.attacker, c.split) == ("patrol", "on", "gan", "infer"))
    strip = decode(images["PATROL+CEM, reconstructions by gan"])
    kept = tiles(store.path(cell.job) / "reconstructions.png", 32)
    assert (strip[0] == kept[1]).all()
    pairs = decode(images["PATROL+CEM, gan: images rebuilt best, original above"])
    assert (pairs == tiles(store.path(cell.job) / "extremes.png", 32)[:, :4]).all()
    values = json.loads((store.path(cell.job) / "pictures.json").read_text())
    for line in values["best"]:
        assert f"<span>{line['psnr_db']:.1f}</span>" in page


def decode(source: str) -> np.ndarray:
    """A strip of the page: [row, image, 32, 32, 3]."""
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1]))).convert("RGBA"))
    rows, columns = picture.shape[0] // 34, picture.shape[1] // 34
    cut = picture.reshape(rows, 34, columns, 34, 4).transpose(0, 2, 1, 3, 4)
    assert (cut[:, :, 0, :, 3] == 0).all() and (cut[:, :, 1:-1, 1:-1, 3] == 255).all()
    return cut[:, :, 1:-1, 1:-1, :3]


@pytest.mark.parametrize("name", ["extremes.png", "pictures.json"])
def test_a_lost_picture_is_told_in_one_sentence(small, tmp_path, name):
    cells, store = small
    shutil.copytree(store.root, tmp_path / "results")
    copy = type(store)(tmp_path / "results")
    lost = copy.path(next(cell.job for cell in cells if cell.attacker == "gan")) / name
    lost.unlink()
    lost.with_name("SHA256SUMS").unlink()  # or it would be refused before that
    with pytest.raises(UserError, match=f"{re.escape(str(lost))} .*delete the folder .* and run again"):
        build_page(findings(cells, copy))


def test_many_pictures_are_cut_to_a_budget(small, page, monkeypatch):
    monkeypatch.setattr(strips, "BUDGET", 300_000)
    text = build_page(findings(*small))
    sources = [element.get("src") for element in parsed(text).iter("img")]
    assert sum(map(len, sources)) < 330_000 < sum(len(e.get("src")) for e in parsed(page).iter("img"))
    told = re.search(r"s 12 pictures (\d+) are shown, to keep the page small", text)
    assert decode(sources[0]).shape[:2] == (1, int(told.group(1)))
    assert "to keep the page small" not in page


def test_pictures_come_from_the_first_seed_that_has_them(small, tmp_path):
    cells, store = small
    for cell in cells:
        if cell.kind == "attack" and cell.seed == 126:  # of which no pictures are kept here, but of the first
            what = (cell.defense, cell.cem, cell.attacker, cell.split, 125)
            other = next(c for c in cells if (c.defense, c.cem, c.attacker, c.split, c.seed) == what)
            shutil.copytree(store.path(other.job), tmp_path / "results" / cell.job.folder)
    text = build_page(findings(cells, type(store)(tmp_path / "results")))
    assert "the pictures are those of seed 126" in text and len(list(parsed(text).iter("img"))) > 20


def test_people_are_never_shown(tmp_path):
    """Not even where a results folder of somebody else's holds such pictures."""
    cells, store = simulate(tmp_path, "facescrub", lambda value: only_bottleneck(value, "facescrub"))
    for cell in cells:
        if cell.kind == "attack":
            Image.fromarray(np.zeros((100, 600, 3), np.uint8)).save(store.path(cell.job) / "reconstructions.png")
    text = build_page(findings(cells, store))
    assert "<img" not in text and "may not be published" in text


def only_bottleneck(value: dict, suite: str) -> None:
    value["suites"][suite]["defense"] = ["bottleneck"]


def test_what_is_missing_is_told_with_its_reason(small, tmp_path):
    cells, store = small
    shutil.copytree(store.root, tmp_path / "results")
    lost = next(cell for cell in cells if cell.attacker == "gan")
    copy = type(store)(tmp_path / "results")
    shutil.rmtree(copy.path(lost.job))
    copy.workdir(lost.job).mkdir(parents=True)
    copy.fail(lost.job, HOSTILE)
    text = build_page(findings(cells, copy))
    tree = parsed(text)
    (item,) = [li for ul in tree.iter("ul") if ul.get("class") == "missing" for li in ul]
    assert "failed" in "".join(item.itertext()) and HOSTILE in "".join(item.itertext())
    assert text.count("<script") == 1


def test_nothing_of_the_results_becomes_markup(small, tmp_path):
    """Hostile text in every file that may come from somebody else: it is shown as text, or refused in one sentence."""
    cells, store = small
    shutil.copytree(store.root, tmp_path / "results")
    copy = type(store)(tmp_path / "results")
    for path in copy.root.glob("*/*/*/provenance.json"):
        record = json.loads(path.read_text())
        record |= {name: HOSTILE for name in ("device", "commit", "precision", "platform", "python", "finished")}
        record |= {"seconds": HOSTILE, "peak_memory_mib": HOSTILE, "packages": {HOSTILE: HOSTILE}}
        path.write_text(json.dumps(record))
        path.with_name("SHA256SUMS").unlink()  # or it would be refused before that
    text = build_page(findings(cells, copy))
    assert HOSTILE in "".join(parsed(text).itertext()) and text.count("<script") == 1
    attack = next(cell.job for cell in cells if cell.attacker == "gan")
    for name, content in (
        ("reconstructions.png", b"<svg onload=alert(1)>"),
        ("pictures.json", b'{"first": [{"psnr_db": "<b>", "ssim": 1, "index": 0}], "best": [], "worst": []}'),
        ("pictures.json", b"[1]"),
        ("history.csv", b"epoch,loss\nx,<b>\n"),
    ):
        file = copy.path(attack) / name
        before = file.read_bytes()
        file.write_bytes(content)
        with pytest.raises(UserError, match=re.escape(str(file))):
            build_page(findings(cells, copy))
        file.write_bytes(before)


def test_the_history_of_the_simulation_is_drawn(small, page):
    """The last value of a line is the mean of the jobs' history.csv files."""
    cells, store = small
    last = []
    for cell in cells:
        if cell.kind == "train" and (cell.defense, cell.cem) == ("patrol", "on"):
            with open(store.path(cell.job) / "history.csv", newline="") as file:
                last.append(float([*csv.DictReader(file)][-1]["selection_accuracy_percent"]))
    assert len(last) == 3 and f"<title>PATROL+CEM: {sum(last) / 3:.4g} in epoch 6</title>" in page


# -- the answer


def only_grid(rows: list[dict]) -> answer.Grid:
    frame = frame_of(*rows)
    (grid,) = answer.grids(frame, verdicts(frame))
    return grid


def test_the_answer_is_a_grid_of_rows_by_attackers():
    worse = pair([0.020, 0.022, 0.024], [0.010, 0.011, 0.012], "mse", "gan")
    grid = only_grid(HELPED + SPREAD + worse)
    assert grid.columns == [("", ""), ("decoder", "infer"), ("gan", "infer")]
    found = {defense: row for defense, _, row in grid.rows}
    assert list(found) == ["bottleneck", "dropout"] and found["dropout"][2] is None
    assert [verdict.kind for verdict in found["bottleneck"]] == ["supported", "supported", "not supported"]
    assert [verdict.kind for verdict in found["dropout"][:2]] == ["undecided", "undecided"]
    assert found["bottleneck"][1].text == "✓ +100\u00a0%" and "+100" in found["bottleneck"][1].hint
    assert grid.sentence.startswith(
        "CEM raises the attackers' MSE: supported in 1, not supported in 1, undecided in 1 of 3 attacks. "
    )


def test_the_answer_says_how_many_defences_were_run():
    absent = [line | {"value": None, "status": "missing", "reason": "not run"} for line in pair([0.1], [0.1], "mse")]
    lost = [line | {"defense": "ressfl"} for line in absent]
    frame = frame_of(*HELPED, *SPREAD, *lost)
    (grid,) = answer.grids(frame, verdicts(frame))
    assert grid.sentence.startswith("2 of 3 defences run so far. CEM raises the attackers' MSE: ")
    assert "of 2 attacks" in grid.sentence and [row[0] for row in grid.rows][-1] == "ressfl"


def test_rows_of_one_seed_beside_others_are_counted_apart():
    grid = only_grid(HELPED + pair([0.010], [0.015], "mse", defense="dropout"))
    assert grid.sentence == (
        "CEM raises the attackers' MSE: "
        "supported in 1, not supported in 0, undecided in 0, one seed in 1 of 2 attacks. "
        "CEM changes the attackers' MSE by +75\u00a0% in the median of 2 attacks (smallest +50\u00a0%, largest "
        "+100\u00a0%), and the accuracy by +0.0 points."
    )


def test_a_choice_among_the_attacks_is_no_attack_more():
    """`standard` has the number of one of the others, which counted twice."""
    chosen = pair([0.010, 0.011, 0.012], [0.020, 0.022, 0.024], "mse", "standard")
    grid = only_grid(HELPED + chosen)
    assert "supported in 1, not supported in 0, undecided in 0 of 1 attacks. " in grid.sentence
    assert [column[0] for column in grid.columns] == ["", "decoder", "standard"]


def test_one_seed_is_no_verdict():
    grid = only_grid([line for line in HELPED if line["seed"] == 0])
    ((_, _, row),) = grid.rows
    assert [verdict.kind for verdict in row] == ["plain", "plain"] and row[1].text == "+100\u00a0%"
    assert grid.sentence.startswith("One seed: no verdict. CEM changes the attacker's MSE by +100\u00a0%, and the acc")


@pytest.mark.parametrize("form", ["off", "on"])
def test_an_attack_that_learnt_nothing_has_no_verdict_and_no_part_in_the_sentence(form):
    beats = {"off": [1.0, 1.0, 1.0], "on": [1.0, 1.0, 1.0]} | {form: [1.0, 0.0, 1.0]}
    ((_, _, row),) = (grid := only_grid(HELPED + pair(beats["off"], beats["on"], "beats_mean_image"))).rows
    assert (row[1].kind, row[1].text) == ("plain", "blind") and "learnt nothing" in row[1].hint
    assert (
        row[0].kind == "supported"
        and "1 of 1 attacks tell nothing" in grid.sentence
        and "CEM changes" not in grid.sentence
    )


def test_a_row_at_chance_has_no_verdict():
    chance = pair([10.0, 10.2, 10.4], [10.1, 10.2, 10.3], "accuracy_percent", "")
    ((_, _, row),) = only_grid([line for line in HELPED if line["metric"] != "accuracy_percent"] + chance).rows
    assert [verdict.kind for verdict in row] == ["plain", "plain"] and row[1].text == "chance"


# -- the printed table, and the rows


def printed_frame(*changed: tuple[str, str, str, float], label: str = "") -> pd.DataFrame:
    """Table S1's decoder columns as results of one seed, `changed` in place of (defense, cem, split, MSE)."""
    other = {row[:3]: row[3] for row in changed}
    frame = published.reference()
    frame = frame[(frame["dataset"] == "cifar10") & frame["attacker"].isin(["", "decoder"])]
    frame = frame[frame["metric"].isin(["accuracy_percent", "mse", "ssim", "psnr_db"])].copy()
    frame = frame.assign(suite="mine", protocol="published", seed=1, label=label)
    mse = frame["metric"] == "mse"
    frame.loc[mse, "value"] = [
        other.get((row.defense, row.cem, row.split), row.value) for row in frame[mse].itertuples(index=False)
    ]
    return frame


def test_the_printed_numbers_agree_with_themselves_and_a_change_is_seen():
    (same,) = compared.printed(printed_frame())
    values = printed_frame().groupby(CELL)["value"].mean().count()
    assert same.sentence.startswith(f"{values} of {values} values lie within the tolerance of the printed ones. ")
    assert "in the same direction in all of them" in same.sentence and "correlation of +1.00." in same.sentence
    assert len([line for _, line in same.lines if line[2] == "mse on / off"]) == 14  # seven rows, two splits
    (other,) = compared.printed(printed_frame(("bottleneck", "on", "train", 0.0001)))
    assert other.sentence.startswith(f"{values - 1} of {values} values ") and "in 13 of them" in other.sentence
    (short,) = compared.printed(printed_frame(label="train.epochs 3 (published 240)"))
    assert short.sentence.startswith("These runs depart from the published setting (below), ")
    assert "within" not in short.sentence
    assert compared.printed(printed_frame().assign(dataset="photos")) == []


def test_a_row_at_chance_is_not_held_against_the_printed_one_and_has_no_rank():
    frame = printed_frame()
    accuracy = (frame["metric"] == "accuracy_percent") & (frame["defense"] == "bottleneck") & (frame["cem"] == "on")
    frame.loc[accuracy, "value"] = 10.0
    (answered,) = compared.printed(frame)
    assert "over 12 attacks" in answered.sentence
    assert not [line for _, line in answered.lines if line[0] == "Bottleneck"]
    train, infer = compared.ranked(frame, {})
    assert infer.title == "CIFAR10, split infer"
    for board in (train, infer):
        ((_, last),) = [line for line in board.lines if line[1][1] == "Bottleneck+CEM"]
        assert last[0] == "–" and "chance" in last[4]
        assert board.sentence.startswith("Hardest to invert: ") and "Bottleneck+CEM" not in board.sentence


def test_rows_that_cannot_be_compared_are_told():
    frame = printed_frame()
    alone, pair = (frame[(frame["defense"] == row) & (frame["split"] != "infer")] for row in ("none", "bottleneck"))
    (board,) = compared.ranked(alone, {})
    assert board.sentence.startswith("No two defences can be compared") and len(board.lines) == 1
    (board,) = compared.ranked(pair, {})
    assert board.sentence.startswith("No ranking yet: only Bottleneck can be ranked. Bottleneck+CEM (MSE ")
    assert len(board.lines) == 2


def test_points_of_a_sweep_are_told_apart():
    frame = printed_frame()
    pair = frame[(frame["defense"] == "bottleneck") & (frame["split"] != "infer") & (frame["cem"] == "off")]
    sweep = {f"s noise={value}": Point("noise", value) for value in (1, 2)}
    (board,) = compared.ranked(pd.concat([pair.assign(suite=suite) for suite in sweep], ignore_index=True), sweep)
    assert {line[1] for _, line in board.lines} == {"Bottleneck, noise=1", "Bottleneck, noise=2"}
    assert "Bottleneck, noise=1 (MSE " in board.sentence


# -- the figures


def test_figures_of_one_page_share_no_id_and_keep_what_their_marks_say():
    from matplotlib.figure import Figure

    figure = Figure()
    (line,) = figure.subplots().plot([1, 2], [3, 4], "o")
    style.tell(line, HOSTILE)
    parts = [inline(style.svg(figure), name, HOSTILE) for name in ("a", "b")]
    one, other = (ElementTree.fromstring(part) for part in parts)
    ids = [{element.get("id") for element in tree.iter()} - {None} for tree in (one, other)]
    assert ids[0] and ids[1] and not ids[0] & ids[1]
    assert one.get("aria-label") == HOSTILE == one.find(f".//{SVG}title").text
    assert "<!--" not in parts[0] and "<style" not in parts[0]


# -- in a browser


@pytest.fixture(scope="module")
def window(page, tmp_path_factory):
    """A browser that shows the small page from a file."""
    needed()
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page, encoding="utf-8")
    with chromium() as window:
        window.get("about:blank")
        requests(window), complaints(window)
        window.page = path.as_uri()
        yield window


@pytest.fixture
def opened(window):
    resize(window, 1280)
    prefer(window, "light")
    window.get(window.page)
    return window


def all_of(window, script: str):
    return window.execute_script(f"return [...document.querySelectorAll({script}")


def shown(window, query: str) -> list[str]:
    """The texts of the elements that are visible."""
    seen = "e.checkVisibility() && getComputedStyle(e).display !== 'none'"  # the former is true of all SVG groups
    return all_of(window, f"{json.dumps(query)})].filter((e) => {seen}).map((e) => e.innerText || e.textContent)")


def column(window, table: str, index: int) -> list[str]:
    return shown(window, f"#table-{table} tbody tr > :nth-child({index})")


def numbers(texts: list[str]) -> list[float]:
    """Of the cells that hold one; those that do not must come last."""
    found = [re.search(r"\d+\.\d+", text) for text in texts]
    assert None not in found[: sum(match is not None for match in found)]
    return [float(match.group()) for match in found if match]


def test_it_opens_from_a_file_without_a_network_and_without_a_complaint(opened):
    asked = requests(opened)
    assert opened.page in asked
    assert all(url == opened.page or url.startswith("data:") for url in asked), asked
    assert complaints(opened) == []
    opened.execute_script("document.querySelectorAll('details').forEach((item) => { item.open = true; })")
    widths = all_of(opened, "'img')].map((image) => image.complete && image.naturalWidth)")
    assert len(widths) > 20 and all(widths)


def test_tables_sort_by_mouse_and_by_keyboard(opened):
    from selenium.webdriver.common.keys import Keys

    before = column(opened, "S5", 3)
    heading = opened.find_element("css selector", "#table-S5 thead tr:last-child th:nth-child(3)")
    button = heading.find_element("tag name", "button")
    button.click()
    assert heading.get_attribute("aria-sort") == "ascending"
    values = [float(text.split()[1]) for text in before if "±" in text]
    assert len(values) == 4
    assert numbers(column(opened, "S5", 3)) == sorted(values)
    opened.execute_script("document.querySelector('[name=beside]').focus()")
    active = None
    for _ in range(40):  # on by the tab key alone
        opened.switch_to.active_element.send_keys(Keys.TAB)
        active = opened.switch_to.active_element
        if active == button:
            break
    assert active == button
    outline = opened.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    active.send_keys(Keys.ENTER)
    assert heading.get_attribute("aria-sort") == "descending"
    assert numbers(column(opened, "S5", 3)) == sorted(values, reverse=True)
    active.send_keys(Keys.SPACE)
    assert heading.get_attribute("aria-sort") is None and column(opened, "S5", 3) == before
    averages = shown(opened, "#table-S5 tfoot th")
    assert averages == ["Average w/o CEM", "Average w/ CEM"]


def choose(window, name: str, value: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(window.find_element("css selector", f"#filters [name={name}]")).select_by_value(value)


def test_filters_choose_rows_columns_and_pictures(opened):
    assert len(column(opened, "S5", 1)) == 4
    choose(opened, "defense", "patrol")
    assert column(opened, "S5", 1) == ["PATROL", "PATROL+CEM"]
    who = shown(opened, "#reconstructions .row.leaf .who")
    assert {text.split("\n")[0] for text in who} == {"PATROL", "PATROL+CEM"}
    assert shown(opened, ".answer tbody th") == ["PATROL+CEM"]
    choose(opened, "cem", "on")
    assert column(opened, "S5", 1) == ["PATROL+CEM"]
    choose(opened, "attacker", "gan")
    assert shown(opened, "#table-S5 thead .group") == ["", "GAN-based MSE"]
    choose(opened, "split", "infer")
    assert len(shown(opened, "#table-S5 tbody td")) == 2  # accuracy and one MSE
    assert len(shown(opened, ".answer tbody td")) == 2
    assert "of" in shown(opened, "#count")[0]
    opened.find_element("css selector", "#filters button[type=reset]").click()
    time.sleep(0.2)
    assert len(column(opened, "S5", 1)) == 4 and len(shown(opened, "#table-S5 thead .group")) >= 2
    field = opened.find_element("css selector", "#filters [name=text]")
    field.send_keys("noSuchThing, bottle")
    assert column(opened, "S5", 1) == ["Bottleneck", "Bottleneck+CEM"]
    field.clear()
    field.send_keys("noSuchThing")
    assert column(opened, "S5", 1) == []
    assert complaints(opened) == []


def test_published_values_stand_beside_on_demand_and_in_the_hint(opened):
    cell = "#table-S5 tbody tr:first-child td:nth-child(3)"
    assert "published 0.0007" in opened.find_element("css selector", cell).get_attribute("title")
    assert "(0.0007)" not in shown(opened, cell)[0]
    choose(opened, "beside", "published")
    assert "(0.0007)" in shown(opened, cell)[0]
    choose(opened, "beside", "difference")
    assert re.search(r"[+-]0\.\d{4}", shown(opened, cell)[0]) and "(0.0007)" not in shown(opened, cell)[0]


def test_the_address_holds_the_filters_and_a_link_sets_them(opened):
    choose(opened, "defense", "patrol")
    choose(opened, "beside", "published")
    assert opened.current_url == opened.page + "#defense=patrol&beside=published"
    opened.get("about:blank")
    opened.get(opened.page + "#defense=bottleneck&cem=on&split=no-such-split")
    assert column(opened, "S5", 1) == ["Bottleneck+CEM"] and opened.current_url.endswith("#defense=bottleneck&cem=on")
    opened.find_element("css selector", "nav a[href='#figures']").click()
    top = "return Math.abs(document.querySelector('#figures').getBoundingClientRect().top) < 120"
    assert opened.execute_script(top) and opened.current_url.endswith("#defense=bottleneck&cem=on")
    opened.execute_script("location.hash = '#defense=patrol'")
    time.sleep(0.2)
    assert column(opened, "S5", 1) == ["PATROL", "PATROL+CEM"]
    opened.execute_script("scrollTo(0, 0)")
    opened.find_element("css selector", "#filters button[type=reset]").click()
    time.sleep(0.2)
    assert opened.current_url == opened.page and complaints(opened) == []


def test_details_are_folded_and_the_answer_is_first(opened):
    headings = shown(opened, "h1, h2")
    assert headings[1].startswith("Does CEM") and headings[4:6] == ["Tables", "Figures"]
    assert headings[2:4] == ["Is the printed table right?", "How do the defences compare?"]
    assert shown(opened, ".answer thead th")[1:] == [
        "Acc.",
        *(f"{who} {split}" for who in ("Dec.-based", "GAN-based") for split in ("train", "infer")),
    ]
    assert len(shown(opened, ".figure svg")) == 2 and len(all_of(opened, "'.figure svg')]")) == 6
    assert shown(opened, "#audit table, #provenance table, .extremes .row") == []
    order = "return [...document.querySelectorAll('main > section')].map((section) => section.id)"
    first, last = ["answer", "tables", "figures", "reconstructions"], ["audit", "provenance", "missing"]
    assert opened.execute_script(order) == first + last


def luminance(window, query: str, what: str) -> float:
    colour = window.execute_script(f"return getComputedStyle(document.querySelector({json.dumps(query)})).{what}")
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(window, query: str, behind: str) -> float:
    pair = luminance(window, query, "color"), luminance(window, behind, "backgroundColor")
    return (max(pair) + 0.05) / (min(pair) + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_follow_the_system_and_the_button(opened, scheme):
    prefer(opened, scheme)
    assert (luminance(opened, "body", "backgroundColor") < 0.2) == (scheme == "dark")
    for query in ("h1", ".caption", ".legend", "nav a"):  # WCAG AA: at least 4.5 to 1
        assert contrast(opened, query, "body") >= 4.5, query
    assert contrast(opened, "figcaption", ".figure") >= 4.5 and contrast(opened, "figcaption a", ".figure") >= 4.5
    verdicts = (".chip.supported", ".chip.not-supported")
    for grade in (".chip.g1.higher", ".chip.g2.higher", ".chip.g3.higher", ".chip.g3.lower", *verdicts):
        assert contrast(opened, grade, grade) >= 4.5, grade
    button = opened.find_element("id", "theme")
    assert button.get_attribute("aria-pressed") == str(scheme == "dark").lower()
    other = {"light": "Dark", "dark": "Light"}
    assert button.text == other[scheme]
    button.click()
    assert (luminance(opened, "body", "backgroundColor") < 0.2) == (scheme == "light")
    assert button.text != other[scheme]
    opened.get(opened.page)
    assert (luminance(opened, "body", "backgroundColor") < 0.2) == (scheme == "light")  # remembered
    opened.find_element("id", "theme").click()
    opened.execute_script("localStorage.clear()")


def test_on_a_phone_accuracy_and_both_attackers_mse_are_read_without_scrolling(opened):
    """All of the answer and of Table S5, with intervals: inside the screen, and not too small."""
    resize(opened, 390, 844)
    opened.get(opened.page)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= 390
    assert opened.execute_script("return document.querySelector('#filters details').open") is False
    for query in (".answer", "#table-S5 table"):
        box = f"const box = document.querySelector('{query}').closest('.scroll'); "
        assert opened.execute_script(box + "return box.scrollWidth - box.clientWidth") == 0, query
        cells = all_of(opened, f"'{query} :is(th, td)')].map((e) => [e.getBoundingClientRect().right, e.scrollWidth - "
                       "e.clientWidth, parseFloat(getComputedStyle(e).fontSize)])")  # fmt: skip
        assert cells and all(right <= 390 and cut <= 0 and size >= 12 for right, cut, size in cells), query


def test_what_is_wider_than_the_screen_scrolls_with_its_first_column_fixed_and_fades_at_the_end(opened):
    resize(opened, 390, 844)
    opened.get(opened.page)
    opened.execute_script("document.querySelectorAll('.gallery')[0].scrollIntoView()")
    box = "const box = document.querySelectorAll('.gallery')[0]; "
    fades = box + "return getComputedStyle(box).maskImage !== 'none'"
    time.sleep(0.2)
    assert opened.execute_script(box + "return box.scrollWidth > box.clientWidth") and opened.execute_script(fades)
    opened.execute_script(box + "box.scrollLeft = 200")
    assert 0 <= opened.execute_script(box + "return box.querySelector('.who').getBoundingClientRect().left") < 20
    opened.execute_script(box + "box.scrollLeft = 9999")
    time.sleep(0.2)
    assert not opened.execute_script(fades)


def test_the_skip_link_is_first_and_leads_to_the_results(opened):
    from selenium.webdriver.common.keys import Keys

    opened.find_element("tag name", "body").send_keys(Keys.TAB)
    link = opened.switch_to.active_element
    assert link.get_attribute("class") == "skip" and link.rect["x"] >= 0
    link.send_keys(Keys.ENTER)
    assert opened.execute_script("return document.activeElement.id") == "main"


def test_on_paper_nothing_is_cut_or_dark(opened):
    prefer(opened, "dark", "print")
    assert luminance(opened, "body", "backgroundColor") > 0.9 and luminance(opened, "h1", "color") < 0.2
    assert shown(opened, ".top, #filters, .skip") == []
    for query in (".scroll", ".gallery"):
        style = f"const s = getComputedStyle(document.querySelector('{query}')); return [s.overflowX, s.maxHeight]"
        assert opened.execute_script(style) == ["visible", "none"]
    opened.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert all(all_of(opened, "'details')].map((item) => item.open)"))
    opened.execute_script("dispatchEvent(new Event('afterprint'))")
    assert not all(all_of(opened, "'details')].map((item) => item.open)"))


# -- size and speed


@pytest.mark.slow
def test_a_page_of_all_tables_and_three_seeds_is_small_and_opens_fast(tmp_path, record_property, capsys):
    """Two data sets with all rows, attackers and splits: 112 attacked cells, three seeds each."""
    needed()

    def paper(value: dict) -> None:
        rows = ["bottleneck", "distcorr", "dropout", "patrol", "ressfl", "noise_nopeek", "noise_arl"]
        value["suites"]["cifar100"] |= {"dataset": ["cifar10", "cifar100"], "defense": rows}

    cells, store = simulate(tmp_path, "cifar100", paper, seeds=(125, 126, 127))
    attacked = {(c.dataset, c.defense, c.cem, c.attacker, c.split) for c in cells if c.kind == "attack"}
    assert len(attacked) == 112
    text = build_page(findings(cells, store))
    path = tmp_path / "report.html"
    path.write_text(text, encoding="utf-8")
    size = path.stat().st_size / 2**20
    with chromium() as window:
        window.get("about:blank")
        window.get(path.as_uri())
        timing = "const n = performance.getEntriesByType('navigation')[0]; return n.loadEventEnd / 1000"
        seconds = window.execute_script(timing)
        assert complaints(window) == []
        height = window.execute_script("return document.documentElement.scrollHeight")
    record_property("megabytes", round(size, 2))
    record_property("load_seconds", round(seconds, 2))
    with capsys.disabled():
        print(f"\n112 cells, 3 seeds: {size:.1f} MiB, {height} px, loaded in {seconds:.2f} s")
    assert size < 15 and height < 6000

"""The tables against the printed numbers, read here with the csv module alone, and the files they become."""

import csv
import json
import math
import os
import re
import shutil
import subprocess
from importlib.resources import files
from statistics import mean, stdev

import pandas as pd
import pytest

from benchmark.analysis import baseline, columns, convergence, published
from benchmark.analysis.frame import COLUMNS, half_width, tidy
from benchmark.analysis.verdicts import verdicts
from benchmark.errors import UserError
from benchmark.report import audit
from benchmark.report.latex import escape_latex
from benchmark.report.render import write_tables
from benchmark.report.tables import build_tables

PRINTED = [
    row | {"value": float(row["value"])}
    for row in csv.DictReader(
        files("benchmark.analysis").joinpath("published.csv").read_text(encoding="utf-8").splitlines()
    )
]
MSE_COLUMNS = [("decoder", "train"), ("decoder", "infer"), ("gan", "train"), ("gan", "infer")]
ROWS = ["bottleneck", "distcorr", "dropout", "patrol", "ressfl", "noise_nopeek", "noise_arl"]
LABELS = ["Bottleneck", "DistCorr", "Dropout", "PATROL", "ResSFL", "Noise_Nopeek", "Noise_ARL"]
MSE_TABLES = ["1", "2", "3", "S5"]
SSIM_TABLES = ["S1", "S2", "S3", "S4"]


def printed_frame(table: str) -> pd.DataFrame:
    rows = published.load()
    return rows[(rows["table"] == table) & (rows["defense"] != "average")]


def row(value=0.01, **changes) -> dict:
    base = {
        "suite": "s",
        "dataset": "cifar10",
        "defense": "bottleneck",
        "cem": "off",
        "protocol": "published",
    }
    base |= {"kind": "attack", "attacker": "decoder", "split": "infer", "metric": "mse", "seed": 0, "value": value}
    return base | {"status": "done", "reason": "", "key": "k", "label": ""} | changes


def frame_of(*rows: dict) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=COLUMNS)


def tables_of(frame: pd.DataFrame, **options) -> list:
    return build_tables(frame, verdicts(frame), **options)


def written(frame: pd.DataFrame, out, **options) -> list:
    return write_tables(frame, verdicts(frame), out, **options)


def table_named(frame: pd.DataFrame, name: str, **options):
    return next(table for table in tables_of(frame, **options) if table.name == name)


def cells_of(table, label: str):
    return next(line.cells for line in table.rows if line.label == label)


def read_markdown(text: str) -> tuple[list[str], dict[str, list[str]]]:
    """A pipe table without its markup: the headings, and the texts of the cells by row label."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    split = [[part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    clean = [[re.sub(r"\\(.)", r"\1", part).replace("**", "") for part in parts] for parts in split]
    return clean[0], {parts[0]: parts[1:] for parts in clean[2:]}


def expected_row(table: str, defense: str, cem: str) -> list[str]:
    """One printed row, in the printed order of columns and with the printed number of decimals."""
    found = {
        (row["attacker"], row["split"], row["metric"]): row["value"]
        for row in PRINTED
        if (row["table"], row["defense"], row["cem"]) == (table, defense, cem)
    }
    texts = [f"{found['none', 'validation', 'accuracy_percent']:.2f}"]
    if table in MSE_TABLES:
        return texts + [f"{found[(*column, 'mse')]:.4f}" for column in MSE_COLUMNS]
    for attacker in ("decoder", "gan"):
        texts += [f"{found[attacker, 'infer', 'ssim']:.3f}", f"{found[attacker, 'infer', 'psnr_db']:.2f}"]
    return texts


@pytest.mark.parametrize("table", MSE_TABLES + SSIM_TABLES)
def test_every_printed_cell_returns_in_markdown(table, tmp_path):
    written(printed_frame(table), tmp_path)
    headings, rows = read_markdown((tmp_path / f"{table}.md").read_text(encoding="utf-8"))
    if table in MSE_TABLES:
        assert headings[1:] == [
            "Acc.↑",
            *(f"{who} MSE {split}↑" for who in ("Dec.-based", "GAN-based") for split in ("Train", "Infer")),
        ]
    else:
        assert headings[1:] == [
            "Acc.↑",
            *(f"{who} MIA {name}↓" for who in ("Dec.-based", "GAN-based") for name in ("SSIM", "PSNR")),
        ]
    first = ["No defence"] if table in ("1", "2", "3") else []
    pairs = [name for label in LABELS for name in (label, f"{label}+CEM")]
    assert list(rows) == first + pairs + ["Average w/o CEM", "Average w/ CEM"]
    for defense, label in zip(ROWS, LABELS, strict=True):
        assert rows[label] == expected_row(table, defense, "off")
        assert rows[f"{label}+CEM"] == expected_row(table, defense, "on")
    if first:
        assert rows["No defence"] == expected_row(table, "no_defense", "off")


@pytest.mark.parametrize("table", MSE_TABLES + SSIM_TABLES)
@pytest.mark.parametrize("cem", ["off", "on"])
def test_averages_are_computed_not_copied(table, cem):
    label = {"off": "Average w/o CEM", "on": "Average w/ CEM"}[cem]
    cells = cells_of(table_named(printed_frame(table), table), label)
    columns = [[float(expected_row(table, name, cem)[index]) for name in ROWS] for index in range(5)]
    for cell, values in zip(cells, columns, strict=True):
        assert cell.value == pytest.approx(mean(values), abs=1e-12)
        assert cell.notes == ()


def test_known_misprinted_averages_differ():
    with_cem = cells_of(table_named(printed_frame("S3"), "S3", compare=True), "Average w/ CEM")
    assert (with_cem[0].text, with_cem[0].behind) == ("51.66", "51.62")
    gan = cells_of(table_named(printed_frame("S5"), "S5", compare=True), "Average w/ CEM")[3:]
    assert [(cell.text, cell.behind) for cell in gan] == [("0.0092", "0.0095"), ("0.0098", "0.0102")]


def test_efficiency_table_prints_s6():
    table = table_named(printed_frame("S6"), "S6", compare=True)
    assert [(group.title, len(group.columns)) for group in table.groups] == [("Local encoder", 3), ("Cloud server", 3)]
    expected = {
        "PATROL": ["0.083", "27.3", "65.61", "9.78", "136.38", "175.92"],
        "Others": ["0.085", "21.9", "55.16", "9.78", "133.59", "169.87"],
    }
    assert {line.label: [cell.text for cell in line.cells] for line in table.rows} == expected
    assert {line.label: [cell.behind for cell in line.cells] for line in table.rows} == expected


def test_package_data_is_the_given_file():
    assert len(PRINTED) == len(published.load()) == 667
    reference = published.reference()
    assert "average" not in set(reference["defense"]) and "no_defense" not in set(reference["defense"])
    tiny = reference.query("dataset == 'tinyimagenet' and defense == 'bottleneck' and cem == 'on'")
    assert tiny[tiny["metric"] == "accuracy_percent"]["value"].tolist() == [52.25]


def pair(off: list, on: list, metric: str, attacker="decoder", defense="bottleneck", **more) -> list[dict]:
    """Rows of one cell with CEM off and on, a value for each seed."""
    place = {"metric": metric, "attacker": attacker, "defense": defense} | more
    place |= {"kind": "attack" if attacker else "train", "split": "infer" if attacker else ""}
    return [
        row(value, cem=cem, seed=seed, **place)
        for cem, values in (("off", off), ("on", on))
        for seed, value in enumerate(values)
    ]


HELPED = [  # three seeds that agree
    *pair([90.0, 90.1, 90.2], [90.1, 90.0, 90.2], "accuracy_percent", ""),
    *pair([0.010, 0.011, 0.012], [0.020, 0.022, 0.024], "mse"),
    *pair([0.50, 0.51, 0.52], [0.40, 0.41, 0.42], "ssim"),
    *pair([20.0, 20.1, 20.2], [20.0, 20.1, 20.2], "psnr_db"),
]
SPREAD = [  # as much on average, but the seeds disagree
    *pair([90.0, 90.1, 90.2], [91.0, 88.0, 92.0], "accuracy_percent", "", "dropout"),
    *pair([0.010, 0.011, 0.012], [0.009, 0.030, 0.027], "mse", defense="dropout"),
]


def bold(rows: list[dict], label: str = "Bottleneck+CEM", name: str = "1") -> list[bool]:
    return [cell.bold for cell in cells_of(table_named(frame_of(*rows), name), label)]


def test_bold_is_what_the_verdicts_support_and_nothing_else():
    rows = HELPED + SPREAD
    assert bold(rows) == [True, False, True, False, False]
    assert bold(rows, name="S1") == [True, True, False, False, False]
    for label in ("Dropout+CEM", "Bottleneck", "Average w/ CEM"):
        assert not any(bold(rows, label)), label


@pytest.mark.parametrize(
    "case",
    {
        "one seed": lambda rows: [line for line in rows if line["seed"] == 0],
        "learnt nothing": lambda rows: rows + pair([1.0, 1.0, 1.0], [1.0, 0.0, 1.0], "beats_mean_image"),
        "learnt nothing without CEM": lambda rows: rows + pair([1.0, 0.0, 1.0], [1.0, 1.0, 1.0], "beats_mean_image"),
        "at chance": lambda rows: [
            line | {"value": 10.4 + line["seed"] / 10} if line["metric"] == "accuracy_percent" else line
            for line in rows
        ],
    }.items(),
    ids=lambda case: case[0],
)
def test_what_nothing_may_be_read_into_is_never_bold_and_says_why(case):
    what, change = case
    rows = change(HELPED)
    assert not any(bold(rows)[1:]) and (what.startswith("learnt") or not bold(rows)[0])
    table = table_named(frame_of(*rows), "1")
    cell = cells_of(table, "Bottleneck+CEM")[2]
    told = " ".join(table.notes[number - 1] for number in cell.notes)
    assert {"learnt nothing": "it learnt nothing", "at chance": "accuracy at chance"}.get(what, "") in told
    assert cell.comparable == (what not in ("learnt nothing", "at chance"))


def test_a_number_of_another_setting_is_not_judged_by_the_published_one():
    assert cells_of(table_named(frame_of(row(0.02)), "1"), "Bottleneck")[2].comparable
    table = table_named(frame_of(row(0.02, label="train.epochs 2 (published 240)")), "1")
    assert not cells_of(table, "Bottleneck")[2].comparable
    assert not cells_of(table, "Average w/o CEM")[2].comparable


def test_an_interval_wider_than_the_scale_is_not_printed():
    wide = table_named(frame_of(row(0.01), row(0.03, seed=1)), "1")
    assert cells_of(wide, "Bottleneck")[2].text == "0.0200 (n too small)"
    accuracy = pair([85.0, 97.0], [], "accuracy_percent", "")
    assert cells_of(table_named(frame_of(*accuracy), "1"), "Bottleneck")[0].text == "91.00 (n too small)"
    same = table_named(frame_of(row(0.0), row(0.0, seed=1)), "1")
    assert cells_of(same, "Bottleneck")[2].text == "0.0000 ± 0.0000"


def test_several_seeds_give_mean_and_t_interval():
    values = [0.010, 0.013, 0.016]
    table = table_named(frame_of(*(row(v, seed=i) for i, v in enumerate(values))), "1")
    cell = cells_of(table, "Bottleneck")[2]
    width = 4.302652729911275 * stdev(values) / math.sqrt(3)  # t(0.975, 2 degrees of freedom), from a table
    assert cell.half_width == pytest.approx(width, rel=1e-9)
    assert cell.text == f"0.0130 ± {width:.4f}"
    assert "Student t" in table.caption
    assert half_width([1.0]) is None and half_width([2.0, 2.0]) == 0


def test_average_interval_is_over_the_averages_of_the_seeds():
    values = {"bottleneck": [0.01, 0.02], "dropout": [0.03, 0.06]}
    rows = [row(v, defense=d, seed=s) for d, column in values.items() for s, v in enumerate(column)]
    cell = cells_of(table_named(frame_of(*rows), "1"), "Average w/o CEM")[2]
    assert cell.value == pytest.approx(0.03)
    assert cell.half_width == pytest.approx(12.706204736432095 * stdev([0.02, 0.04]) / math.sqrt(2))
    ragged = cells_of(table_named(frame_of(*rows[:-1]), "1"), "Average w/o CEM")[2]
    assert ragged.half_width is None and ragged.value == pytest.approx((0.015 + 0.03) / 2)


def test_lost_cells_are_dashes_with_reasons_and_never_averaged():
    table = table_named(
        frame_of(
            row(0.01),
            row(0.02, seed=1),
            row(9.0, seed=2, status="diverged", reason="loss not finite in epoch 3"),
            row(0.05, cem="on", status="failed", reason="out of memory"),
            row(math.nan, defense="distcorr"),
            row(math.inf, defense="distcorr", cem="on"),
            row(math.nan, defense="dropout", status="missing"),
            row(math.nan, defense="dropout", cem="on", status="running"),
            row(0.03, defense="patrol"),
            row(0.04, defense="patrol", cem="on"),
        ),
        "1",
    )
    shown = {
        label: (
            cells_of(table, label)[2].text,
            [table.notes[n - 1] for n in cells_of(table, label)[2].notes],
        )
        for label in [line.label for line in table.rows]
    }
    assert shown["Bottleneck"][0] == "0.0150 (n too small)"
    assert shown["Bottleneck"][1] == ["mean of 2 of 3 seeds; diverged: loss not finite in epoch 3"]
    assert shown["Bottleneck+CEM"] == ("–", ["failed: out of memory"])
    assert shown["DistCorr"] == ("–", ["diverged: the value is not a finite number"])
    assert shown["DistCorr+CEM"] == ("–", ["diverged: the value is not a finite number"])
    assert shown["Dropout"] == ("–", ["not run yet"])
    assert shown["Dropout+CEM"] == ("–", ["still running"])
    assert shown["ResSFL"] == ("–", ["not in this suite"])
    # Bottleneck has no value with CEM, so neither average has it
    assert shown["Average w/o CEM"] == ("0.0300", ["average over 1 of 7 rows: PATROL"])
    assert shown["Average w/ CEM"] == ("0.0400", ["average over 1 of 7 rows: PATROL"])
    assert cells_of(table, "ResSFL")[0].notes == cells_of(table, "ResSFL")[4].notes


def test_plug_ins_follow_the_printed_rows_and_stay_out_of_averages():
    frame = frame_of(
        row(0.01, dataset="photos"),
        row(0.5, dataset="photos", defense="mine"),
        row(0.6, dataset="photos", defense="mine", cem="full"),
        row(0.7, dataset="photos", attacker="strong"),
        row(0.001, dataset="photos", defense="none"),
    )
    table = table_named(frame, "photos-mse", compare=True)
    assert [line.label for line in table.rows] == [
        "No defence",
        "Bottleneck",
        "mine",
        "mine+CEM (full)",
        "Average w/o CEM",
    ]
    assert [group.title for group in table.groups] == ["", "Dec.-based MSE"]  # no GAN has attacked
    assert cells_of(table, "Average w/o CEM")[1].text == "0.0100"
    assert all(cell.behind == "" for line in table.rows for cell in line.cells)


def test_further_attackers_have_tables_beside_the_printed_ones():
    frame = frame_of(
        row(0.02),
        row(0.03, cem="on"),
        *pair([0.010, 0.011, 0.012], [0.020, 0.022, 0.024], "mse", "large"),
        row(0.01, attacker="ensemble"),
        row(0.015, attacker="mine"),
        row(0.012, attacker="informed", split="train"),
    )
    printed = tables_of(frame_of(row(0.02), row(0.03, cem="on")))
    tables = {table.name: table for table in tables_of(frame)}
    for table in printed:
        assert tables[table.name] == table  # layout and numbers are as without them
    assert set(tables) - {table.name for table in printed} == {"cifar10-attackers-mse", "cifar10-attackers-ssim"}
    table = tables["cifar10-attackers-mse"]
    columns = [(group.title, column) for group in table.groups for column in group.columns]
    attackers = ["Dec.-based", "informed", "larger", "best of all (oracle)", "mine"]
    assert columns == [(f"MSE↑ {split}", name) for split in ("train", "infer") for name in attackers]
    found = [cell.text for cell in cells_of(table, "Bottleneck")]
    assert found == ["–", "0.0120", "–", "–", "–", "0.0200", "–", "0.0110 ± 0.0025", "0.0100", "0.0150"]
    assert cells_of(table, "Bottleneck+CEM")[7].bold


def test_an_attack_not_shown_to_have_converged_is_noted():
    frame = frame_of(
        row(0.02), row(0.0, metric="converged"), row(0.03, cem="on"), row(1.0, cem="on", metric="converged")
    )
    table = table_named(frame, "1")
    plain, cem = (cells_of(table, label)[2] for label in ("Bottleneck", "Bottleneck+CEM"))
    assert table.notes[plain.notes[0] - 1].startswith("not shown to have converged") and not cem.notes


def test_the_rule_of_convergence():
    """Of 10 epochs the last 2 against the 2 before: a fall of 1.9 % is none, of 2.1 % is one; 4 epochs say nothing."""
    start = [1.0] * 8

    def verdict(losses):
        return convergence.verdict(convergence.decrease_percent(losses))

    assert verdict([*start, 0.981, 0.981]) == "yes" and verdict([*start, 0.979, 0.979]) == "no"
    assert verdict([*start, 1.2, 1.3]) == "yes" and verdict([3.0, 2.0, 1.0, 0.5]) == "too short"
    assert convergence.decrease_percent([9, 9, 9, 4.0, 3.0]) == pytest.approx(25)


def test_protocols_and_suites_have_tables_of_their_own():
    frame = frame_of(row(), row(0.02, protocol="corrected"))
    tables = {table.name: table for table in tables_of(frame)}
    assert set(tables) == {"1", "S1", "1-corrected", "S1-corrected"}
    assert "protocol corrected" in tables["1-corrected"].title
    assert cells_of(tables["1-corrected"], "Bottleneck")[2].text == "0.0200"
    names = {table.name for table in tables_of(frame_of(row(), row(0.02, suite="t")))}
    assert names == {"1-s", "S1-s", "1-t", "S1-t"}


def test_reductions_are_in_the_caption_and_marked_where_only_some_cells_have_them():
    whole = table_named(frame_of(row(label="2 epochs; 512 images")), "1")
    assert whole.departures == "Not at the published setting: 2 epochs; 512 images."
    assert cells_of(whole, "Bottleneck")[2].notes == ()
    part = table_named(frame_of(row(label="2 epochs"), row(0.02, cem="on")), "1")
    assert part.departures == "Some cells are not at the published setting: 2 epochs."
    assert [part.notes[n - 1] for n in cells_of(part, "Bottleneck")[2].notes] == ["reduced: 2 epochs"]
    assert cells_of(part, "Bottleneck+CEM")[2].notes == ()


def test_extra_metrics_become_columns():
    frame = frame_of(row(0.4, metric="ssim"), row(0.4567, metric="ssim_valid"))
    table = table_named(frame, "S1", extra_metrics=["ssim_valid"])
    assert [cell.text for cell in cells_of(table, "Bottleneck")] == [
        "–",
        "0.400",
        "–",
        "0.457",
        "–",
        "–",
        "–",
    ]


def test_same_frame_same_bytes_whatever_the_order_of_its_rows(tmp_path):
    frame = published.reference()
    first = written(frame, tmp_path / "a", compare=True)
    second = written(frame.sample(frac=1, random_state=3), tmp_path / "b", compare=True)
    assert [path.name for path in first] == [path.name for path in second]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))
    pd.testing.assert_frame_equal(
        tidy(pd.read_csv(tmp_path / "a" / "results.csv", dtype=str, keep_default_na=False)), tidy(frame)
    )
    assert len(json.loads((tmp_path / "a" / "tables.json").read_text(encoding="utf-8"))) == 9
    index = (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    assert all((tmp_path / "a" / target).is_file() for target in re.findall(r"\]\(([^)]+)\)", index))


HOSTILE = "a_b%<script>alert(1)</script>|&#{}\\~^$[x]中\n"


def hostile_frame() -> pd.DataFrame:
    return frame_of(
        row(0.01, dataset=HOSTILE, label=HOSTILE),
        row(0.02, dataset=HOSTILE, cem="on"),
        row(0.03, dataset=HOSTILE, defense=HOSTILE),
        row(math.nan, dataset=HOSTILE, defense="[x]", status="failed", reason=HOSTILE),
        row(0.03, dataset=HOSTILE, attacker=HOSTILE),
    )


def check_latex(text: str) -> None:
    """Balanced braces and environments, and in every tabular as many cells in each line as columns."""
    body = re.sub(r"(?<!\\)%.*", "", text)
    depth = 0
    for brace in re.findall(r"\\.|[{}]", body):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        assert depth >= 0
    assert depth == 0
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert not stack
    for spec, lines in re.findall(r"\\begin\{tabular\}\{(\S+)\}\n(.*?)\\end\{tabular\}", body, re.S):
        columns = re.sub(r"@\{[^}]*\}|\[[^]]*\]", "", spec)
        assert set(columns) <= set("lcrS"), spec
        lines = re.sub(r"\\(?:toprule|midrule|bottomrule|addlinespace)|\\cmidrule\(lr\)\{(\d+)-(\d+)\}", "", lines)
        for line in lines.split("\\\\")[:-1]:
            parts = re.split(r"(?<!\\)&", line)
            wide = [int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line)]
            assert len(parts) + sum(wide) == len(columns), line
        for first, last in re.findall(r"\\cmidrule\(lr\)\{(\d+)-(\d+)\}", body):
            assert 2 <= int(first) <= int(last) <= len(columns)


def pdflatex(folder, name: str) -> None:
    """Compile folder/name.tex, if there is a TeX. BENCHMARK_TEX=required makes its absence a failure."""
    compiler = shutil.which("pdflatex")
    if compiler is None:
        assert os.environ.get("BENCHMARK_TEX") != "required", "BENCHMARK_TEX=required, but there is no pdflatex"
        pytest.skip("pdflatex is not installed: the sources were parsed, not compiled")
    words = [compiler, "-interaction=nonstopmode", "-halt-on-error", "-file-line-error", f"{name}.tex"]
    done = subprocess.run(words, cwd=folder, capture_output=True, timeout=300, check=False)
    log = done.stdout.decode(errors="replace")
    assert done.returncode == 0 and "Missing character" not in log, log[-2000:]
    assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF-")


@pytest.mark.parametrize("make", [published.reference, hostile_frame], ids=["published", "hostile"])
def test_latex_is_well_formed_and_compiles(make, tmp_path):
    paths = written(make(), tmp_path, compare=True)
    sources = [path for path in paths if path.suffix == ".tex"]
    for path in sources:
        check_latex(path.read_text(encoding="utf-8"))
    pdflatex(tmp_path, "all_tables")


def test_every_table_can_be_read_into_a_paper(tmp_path):
    """Each file, and the audit's, by \\input alone, with the packages that its first line names and no others."""
    paths = written(published.reference(), tmp_path, compare=True)
    audited, _ = audit.write(tmp_path / "audit")
    sources = [path for path in [*paths, *audited] if path.suffix == ".tex" and path.stem != "all_tables"]
    assert len(sources) > 9
    for path in sources:
        text = path.read_text(encoding="utf-8")
        assert "\\documentclass" not in text and "\\begin{document}" not in text
        check_latex(text)
    inputs = "".join(f"\\input{{{path.relative_to(tmp_path).with_suffix('')}}}\n\\clearpage\n" for path in sources)
    lines = {path.read_text(encoding="utf-8").splitlines()[0] for path in sources}
    needs = [re.fullmatch(r"% needs (\\usepackage\{[a-z,]+\})", line).group(1) for line in sorted(lines)]
    preamble = "\\documentclass{article}\n" + "\n".join(needs) + "\n"
    (tmp_path / "paper.tex").write_text(f"{preamble}\\begin{{document}}\n{inputs}\\end{{document}}\n")
    pdflatex(tmp_path, "paper")


def test_a_caption_says_protocol_seeds_epochs_and_deviations():
    frame = frame_of(row(0.01, seed="126", label="train.epochs 2 (published 240)"), row(0.02, seed="125"))
    told = {("s", "published", "cifar10"): "Epochs: training 2/240, decoder 50."}
    tables = tables_of(frame, epochs=told)
    table = next(table for table in tables if table.number == "1")
    assert "protocol published" in table.subject
    assert "Seeds 125, 126. Epochs: training 2/240, decoder 50." in table.caption
    assert table.departures == "Some cells are not at the published setting: train.epochs 2 (published 240)."
    assert "Seed 125." in table_named(frame_of(row(0.02, seed="125")), "1").caption
    assert "Seed" not in table_named(frame_of(row(math.nan, status="failed")), "1").caption


def test_latex_is_fit_for_a_paper(tmp_path):
    """Numbers below each other, rows of a defence together, the paper's own numbering, and no file of this project."""
    values = [row(0.01), row(0.02, cem="on"), row(0.03, defense="dropout"), row(0.04, defense="[x]")]
    doubted = [row(0.0, metric=rule.METRIC) for rule in (convergence, baseline, columns)]
    paths = written(frame_of(*values, *doubted, row(0.1, attacker="ridge")), tmp_path)
    text = (tmp_path / "1.tex").read_text()
    assert r"\begin{tabular}{lcccc" not in text and "S[table-format=1.4]@{}l" in text
    assert re.search(r"Bottleneck & .*0\.0100 & \\textsuperscript\{\d,\d,\d\}", text)
    lines = text.splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("Bottleneck &"))
    assert lines[place - 1] == lines[place + 2] == r"\addlinespace" and lines[place + 1].startswith("Bottleneck+CEM &")
    for path in paths:
        if path.suffix == ".tex":
            assert r"\thetable" not in path.read_text() and not re.search(r"\.md|\.csv|docs/", path.read_text()), path
    assert ".md" in (tmp_path / "1.md").read_text()  # the notes do name files


def test_check_latex_sees_faults():
    good = "\\begin{tabular}{lc}\na & b \\\\\n\\end{tabular}"
    check_latex(good)
    for bad in (good + "}", good.replace("a & b", "a"), good.replace("\\end{tabular}", "")):
        with pytest.raises(AssertionError):
            check_latex(bad)


def test_hostile_names_are_text_everywhere(tmp_path):
    paths = written(hostile_frame(), tmp_path)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", path.name) and path.parent == tmp_path for path in paths)
    for path in paths:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".md":
            assert "<script" not in text
    table = next(path for path in paths if path.name.endswith("-mse.md"))
    headings, rows = read_markdown(table.read_text(encoding="utf-8"))
    assert all(len(cells) == len(headings) - 1 for cells in rows.values())
    assert escape_latex("a_b%<#>") == r"a\_b\%\textless{}\#\textgreater{}"


def test_bad_frames_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="lacks the columns protocol"):
        tidy(frame_of(row()).drop(columns="protocol"))
    with pytest.raises(UserError, match="unknown status 'lost'"):
        tidy(frame_of(row(status="lost")))
    with pytest.raises(UserError, match="not a number"):
        tidy(frame_of(row("many")))
    with pytest.raises(UserError, match="two different results"):
        tidy(frame_of(row(0.01), row(0.02)))
    assert len(tidy(frame_of(row(0.01), row(0.01, key="other")))) == 1
    assert tidy(frame_of(row(9.0, status="diverged")))["value"].isna().all()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        written(frame_of(row()), tmp_path / "file")


def test_an_empty_frame_gives_an_empty_index(tmp_path):
    assert {path.name for path in written(frame_of(), tmp_path)} == {
        "README.md",
        "all_tables.tex",
        "results.csv",
        "tables.json",
    }


def test_what_beats_the_decoder_stands_at_its_mse():
    frame = frame_of(row(0.010), row(0.009, attacker="ridge"), row(0.012, attacker="gan"))
    table = next(table for table in tables_of(frame) if table.name == "cifar10-attackers-mse")
    cells = [cell for line in table.rows for cell in line.cells if cell.value is not None]
    told = {cell.value: [table.notes[number - 1] for number in cell.notes] for cell in cells}
    assert told[0.009] == [] and "ridge rebuilds with an MSE 10.0 % below the decoder's" in told[0.010]
    assert any(text.startswith("ridge, a closed form, beats GAN-based") for text in told[0.012])


def test_a_data_set_that_the_paper_lacks_has_columns_for_its_own_attacks_alone():
    ours = row(dataset="photos", split="train")
    accuracy = row(90.0, dataset="photos", kind="train", attacker="", split="", metric="accuracy_percent")
    (table,) = tables_of(frame_of(ours, accuracy))
    assert [(column.attacker, column.split) for column in table.columns] == [
        ("", ""),
        ("decoder", "train"),
    ]
    both = tables_of(frame_of(ours, accuracy, row(dataset="photos")))
    assert [table.name for table in both] == ["photos-mse", "photos-ssim-psnr"]

"""From cells and store to the page: gathers what each section shows and renders the template."""

import base64
import hashlib
from importlib.resources import files

import pandas as pd
from markupsafe import Markup

from benchmark.analysis import diff, names, published
from benchmark.analysis.audit import audit
from benchmark.analysis.collect import devices, epochs, tidy_frame
from benchmark.analysis.printed import cells as printed_cells
from benchmark.analysis.verdicts import verdicts
from benchmark.departures import told
from benchmark.errors import UserError
from benchmark.matrix.expand import Cell
from benchmark.report import audit as audit_stage
from benchmark.report import verdicts as verdict_stage
from benchmark.report.bounds import bounds_tables
from benchmark.report.page import charts, grades, history, strips
from benchmark.report.render import environment
from benchmark.report.tables import COMPARED, build_tables
from benchmark.store.store import Store, is_number

VERDICTS = ["method", "attack", "claim", "verdict", "change", "95 % interval", "p (Holm)", "seeds", "off", "on"]
VERDICTS += ["d_z", "why", "data set", "protocol"]
AXES = {
    "dataset": "Data set",
    "protocol": "Protocol",
    "defense": "Defence",
    "cem": "CEM",
    "attacker": "Attacker",
    "split": "Split",
}
# provenance that the jobs of a run usually share, told once above their list: key -> heading
SHARED = {"device": "Device", "precision": "Precision", "platform": "Platform", "python": "Python"}
SHARED |= {"version": "Version", "commit": "Commit"}
JOB = {"seconds": "Seconds", "peak_memory_mib": "Peak memory (MiB)", "finished": "Finished"}


def build_page(cells: list[Cell], store: Store, extra_metrics: list[str] | tuple = ()) -> str:
    """The HTML of one suite's page; it loads nothing from outside, and its only script is its own.

    extra_metrics: as in tables.build_tables. UserError for a damaged result.
    """
    frame = tidy_frame(cells, store)
    compared = _compared(frame)
    order, records = charts.defenses(frame), devices(cells, store)
    pictures, left_out = strips.grids(cells, store, order)
    script = f"\n//<![CDATA[\n{_asset('page.js')}//]]>\n"  # as CDATA, so that the page is well-formed XML, too
    return (
        environment("html")
        .get_template("page.html.j2")
        .render(
            title=f"Model inversion benchmark: {cells[0].suite}",
            style=Markup(_asset("page.css")),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
            overview=_overview(cells, frame, compared),
            axes=_axes(cells),
            tables=[
                *build_tables(frame, compare=True, extra_metrics=extra_metrics, epochs=epochs(cells)),
                *bounds_tables(frame),
            ],
            brackets=COMPARED,  # told in the caption of a file, and here by the control that shows them
            shown=grades.shown,
            graded=grades.graded,
            legend=charts.legend(frame),
            tradeoff=charts.tradeoff(frame),
            agreement=charts.agreement(compared),
            agreement_legend=charts.agreement_legend(compared),
            training=_training(cells, store),
            attacking=charts.attack_curves(history.curves(_first_seed(cells), store, "attack", history.LOSS), order),
            grids=pictures,
            pictures_left_out=left_out,
            verdicts=_verdicts(frame),
            audit=_audit(),
            shared=_shared(records),
            jobs=[[line["job"], *(line.get(key, "") for key in JOB)] for line in records],
            job_headings=["Job", *JOB.values()],
            missing=_missing(frame),
        )
    )


def _asset(name: str) -> str:
    return files("benchmark.report").joinpath("templates", name).read_text(encoding="utf-8")


def _compared(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the diff against the printed numbers; none where the suite's data sets have none."""
    try:
        return diff.diff(published.reference(), frame)
    except UserError:  # no cell in common
        columns = ["protocol", "dataset", "defense", "cem", "attacker", "split", "metric", "reference", "produced"]
        return pd.DataFrame(columns=[*columns, "verdict"])


def _overview(cells: list[Cell], frame: pd.DataFrame, compared: pd.DataFrame) -> dict:
    jobs = {cell.job.key for cell in cells}
    done = set(frame[frame["status"] == "done"]["key"])
    judged = compared[compared["verdict"].isin(["within", "beyond"])]
    seeds = sorted({str(cell.seed) for cell in cells if cell.job.kind != "efficiency"})
    figures = [("Cells with a result", f"{len(done)} of {len(jobs)}")]
    if len(judged):
        within = (judged["verdict"] == "within").sum()
        figures.append(("Values within tolerance of the published", f"{within} of {len(judged)}"))
    figures += [("Seeds" if len(seeds) > 1 else "Seed", ", ".join(seeds) or "none")]
    protocols = list(dict.fromkeys(cell.protocol for cell in cells if cell.protocol))
    figures += [("Protocols" if len(protocols) > 1 else "Protocol", ", ".join(protocols) or "none")]
    reductions = told(departure for cell in cells for departure in cell.departures)
    return {"figures": figures, "reductions": reductions, "published": bool(len(compared))}


def _axes(cells: list[Cell]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(axis, heading, (value, what it is called)) for the filters; axes with one value alone are left out."""
    called = {
        "dataset": names.dataset_title,
        "defense": lambda name: names.row_label(name, "off"),
        "cem": lambda name: {"off": "off", "on": "on"}.get(name, name),
        "attacker": lambda name: names.ATTACKERS.get(name, name),
    }
    found = []
    for axis, heading in AXES.items():
        kinds = {"attack"} if axis in ("attacker", "split") else {"train"}
        values = list(dict.fromkeys(getattr(cell, axis) for cell in cells if cell.job.kind in kinds))
        if len(values) > 1:
            found.append((axis, heading, [(value, called.get(axis, str)(value)) for value in values]))
    return found


def _first_seed(cells: list[Cell]) -> list[Cell]:
    first = {}
    for cell in cells:
        first.setdefault((cell.dataset, cell.protocol), cell.seed)
    return [cell for cell in cells if cell.seed == first[cell.dataset, cell.protocol]]


def _training(cells: list[Cell], store: Store) -> list[tuple[str, list[charts.Facet]]]:
    accuracy = history.curves(cells, store, "train", history.ACCURACY)
    loss = history.curves(cells, store, "train", history.LOSS)
    return [
        ("Accuracy by which the checkpoint is chosen", charts.training_curves(accuracy, "Accuracy (%)")),
        ("Training loss", charts.training_curves(loss, "Loss (log)", log=True)),
    ]


def _verdicts(frame: pd.DataFrame) -> dict:
    lines = verdicts(frame) if frame["seed"].nunique() > 1 else pd.DataFrame()
    if lines.empty or lines["seeds"].max() < 2:
        return {}
    axes = ["dataset", "protocol", "defense", "cem", "attacker", "split"]
    cells = [charts.filters(dict(zip(axes, cell, strict=True))) for cell in lines[axes].itertuples(index=False)]
    chosen = [verdict_stage.HEADINGS.index(name) for name in VERDICTS]
    texts = [[row[index] for index in chosen] for row in verdict_stage.text_rows(lines)]
    return {
        "headings": VERDICTS,
        "rows": list(zip(cells, texts, strict=True)),
        "summary": verdict_stage.summary(lines).splitlines(),
    }


def _audit() -> dict:
    found = audit(printed_cells(published.load()))
    rows = [({"dataset": finding.cell[1]}, audit_stage.texts(finding)) for finding in found]
    return {
        "headings": audit_stage.HEADINGS,
        "summary": audit_stage.summary(found),
        "grave": [row for row, finding in zip(rows, found, strict=True) if finding.severity != "note"],
        "notes": [row for row, finding in zip(rows, found, strict=True) if finding.severity == "note"],
    }


def _shared(records: list[dict]) -> list[tuple[str, list[str]]]:
    """(heading, distinct values) of what the jobs' provenance has in common, and their seconds together."""
    if not records:
        return []
    flat = [
        {heading: str(record.get(key) or "not recorded") for key, heading in SHARED.items()}
        | {name: str(version) for name, version in _packages(record).items() if version}
        for record in records
    ]
    headings = dict.fromkeys(heading for record in flat for heading in record)
    found = [(name, list(dict.fromkeys(record[name] for record in flat if name in record))) for name in headings]
    times = [record.get("seconds") or 0.0 for record in records if is_number(record.get("seconds"))]
    return [("Jobs", [str(len(records))]), ("Time of all jobs", [f"{sum(times) / 3600:.2f} h"]), *found]


def _packages(record: dict) -> dict:
    packages = record.get("packages")
    return packages if isinstance(packages, dict) else {}


def _missing(frame: pd.DataFrame) -> list[tuple[str, str, list[str]]]:
    """(status, reason, cells) of what has no value, each cell once for its job."""
    lost = frame[frame["status"] != "done"].drop_duplicates(["key", "dataset", "defense", "cem", "attacker", "split"])
    found = []
    for (status, reason), part in lost.groupby(["status", "reason"], sort=True):
        cells = [
            " ".join([names.dataset_title(row.dataset), names.row_label(row.defense, row.cem), row.protocol])
            + (f" {row.attacker}" if row.attacker != "none" else "")
            + f" {row.split} seed {row.seed}"
            for row in part.itertuples(index=False)
        ]
        found.append((status, reason or "no reason recorded", cells))
    return found

"""Builds the page from cells and store: gathers what each section shows and renders the template."""

import base64
import functools
import hashlib
from importlib.resources import files
from pathlib import Path

import pandas as pd
from markupsafe import Markup

import benchmark
from benchmark.analysis import names, published
from benchmark.analysis.audit import audit
from benchmark.analysis.collect import all_jobs, devices
from benchmark.analysis.printed import cells as printed_cells
from benchmark.analysis.verdicts import once
from benchmark.departures import told
from benchmark.matrix.cells import Cell
from benchmark.report import audit as audit_stage
from benchmark.report import swept
from benchmark.report import verdicts as verdict_stage
from benchmark.report.bounds import bounds_tables
from benchmark.report.findings import Findings
from benchmark.report.page import answer, compared, drawn, grades, strips
from benchmark.report.render import rendered
from benchmark.report.tables import COMPARED, build_tables
from benchmark.store.store import Store, is_number

AXES = {
    "dataset": "Data set",
    "protocol": "Protocol",
    "defense": "Defence",
    "cem": "CEM",
    "attacker": "Attacker",
    "split": "Split",
}
# provenance that the jobs of a run usually share, shown once above their list: key -> heading
SHARED = {"device": "Device", "precision": "Precision", "platform": "Platform", "python": "Python"}
SHARED |= {"version": "Version", "commit": "Commit"}
JOB = {"seconds": "Seconds", "peak_memory_mib": "Peak memory (MiB)", "finished": "Finished"}
LOG = "log.txt"
PAPER = "https://arxiv.org/abs/2503.00383"
DOCS = Path(benchmark.__file__).parents[1] / "docs"  # in a checkout


def build_page(found: Findings, extra_metrics: list[str] | tuple = (), out: Path | None = None) -> str:
    """The HTML of one suite's page; it loads nothing from outside, and its only script is its own.

    extra_metrics: as in tables.build_tables. out: the folder that the page will be written to, for links to logs and
    documents, which are left out if those are not beside the folder of tables.
    """
    cells, store, frame, lines = found.cells, found.store, found.frame, found.verdicts
    records = devices(cells, store)
    departures = told(departure for cell in cells for departure in cell.departures)
    pictures, left_out = strips.grids(cells, found.pictures)
    script = f"\n//<![CDATA[\n{_asset('page.js')}//]]>\n"  # as CDATA, so that the page is well-formed XML, too
    tables = build_tables(frame, lines, compare=True, extra_metrics=extra_metrics, epochs=found.epochs)
    first = [table for table in tables if any(column.metric == "mse" for column in table.columns)]
    printed = [cell for table in tables for row in table.rows for cell in row.cells if cell.behind]
    return rendered(
        "html",
        "page",
        title=f"Model inversion benchmark: {cells[0].suite_as_declared}",
        style=Markup(_asset("page.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        facts=_facts(cells, frame, len(departures)),
        departures=departures,
        answers=answer.grids(frame, lines),
        claims=_claims(lines),
        claim_headings=list(_claim_texts(lines)),
        printed_answers=compared.printed(frame),
        printed_headings=compared.PRINTED_HEADINGS,
        swept_title=swept.TITLE,
        swept_caption=f"{swept.CAPTION} {swept.dagger(found.swept)}".strip(),
        swept_headings=[*swept.HEADINGS, *found.attack_points],
        swept_rows=swept.text_rows(found.swept, found.attack_points),
        # the points of a sweep over attackers' settings are no rows of their own
        ranked_answers=compared.ranked(frame, found.strengths) if found.swept.empty else [],
        ranked_headings=compared.RANKED_HEADINGS,
        axes=_axes(cells),
        tables=first,
        more_tables=[table for table in [*tables, *bounds_tables(frame)] if table not in first],
        files={table.name for table in tables},  # the bounds share one file
        printed=bool(printed),
        judged=any(cell.comparable and cell.value is not None for cell in printed),
        brackets=COMPARED,  # explained in the caption of a file, and here by the control that shows them
        shown=grades.shown,
        graded=grades.graded,
        row_label=names.row_label,
        attacker_title=names.attacker_title,
        figures=drawn.ordered(found.drawings),
        inline=drawn.inline,
        open_figures=drawn.OPEN,
        grids=pictures,
        pictures_left_out=left_out,
        audit=_audit(),
        shared=_shared(records),
        jobs=_jobs(cells, store, records, out),
        job_headings=["Job", *JOB.values()],
        missing=_missing(cells, store, frame, out),
        paper=PAPER,
        documents=_link(DOCS, out),
    )


def _asset(name: str) -> str:
    return files("benchmark.report").joinpath("templates", name).read_text(encoding="utf-8")


def _link(path: Path, out: Path | None) -> str:
    """A link from a page in TABLES/SUITE to a file beside TABLES; "" for files elsewhere: nobody else has that path."""
    if out is None or not path.exists():
        return ""
    home, path = Path(out).resolve().parents[1], path.resolve()
    return f"../../{path.relative_to(home).as_posix()}" if path.is_relative_to(home) else ""


def _facts(cells: list[Cell], frame: pd.DataFrame, departures: int) -> list[tuple[str, str]]:
    jobs = {cell.job.key for cell in cells}
    done = set(frame[frame["status"] == "done"]["key"])
    found = [("Cells with a result", f"{len(done)} of {len(jobs)}")]
    seeds = sorted({str(cell.seed) for cell in cells if cell.kind != "efficiency"})
    found += [("Seeds" if len(seeds) > 1 else "Seed", ", ".join(seeds) or "none")]
    protocols = list(dict.fromkeys(cell.protocol for cell in cells if cell.protocol))
    more = f", with {departures} departure{'s' * (departures > 1)}" if departures else ""
    text = (", ".join(protocols) or "none") + more
    return [*found, ("Protocols" if len(protocols) > 1 else "Protocol", text)]


def _axes(cells: list[Cell]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(axis, heading, (value, its name)) for the filters; axes with only one value are left out."""
    called = {
        "dataset": names.dataset_title,
        "defense": lambda name: names.row_label(name, "off"),
        "attacker": names.attacker_title,
    }
    found = []
    for axis, heading in AXES.items():
        kinds = {"attack"} if axis in ("attacker", "split") else {"train"}
        values = list(dict.fromkeys(getattr(cell, axis) for cell in cells if cell.kind in kinds))
        if len(values) > 1:
            found.append((axis, heading, [(value, called.get(axis, str)(value)) for value in values]))
    return found


def _claims(lines: pd.DataFrame) -> list[tuple[dict, list[str]]]:
    """Every verdict as text, with its filter axes: an accuracy belongs to every attack."""
    axes = ["dataset", "protocol", "defense", "cem", "attacker", "split"]
    own = compared.filter_axes(once(lines), axes)
    return list(zip(own, _claim_texts(lines).values.tolist(), strict=True))


def _claim_texts(lines: pd.DataFrame) -> pd.DataFrame:
    """Without values from single images, which are not shared, so that the page is the same wherever it is made."""
    return verdict_stage.texts(lines).drop(columns=verdict_stage.IMAGES, errors="ignore")


@functools.cache
def _audit() -> dict:
    """Of the printed numbers alone, so the same on every page."""
    found = audit(printed_cells(published.load()))
    rows = [({"dataset": finding.cell.dataset}, audit_stage.texts(finding)) for finding in found]
    return {"headings": audit_stage.HEADINGS, "summary": audit_stage.meaning(found), "rows": rows}


def _shared(records: list[dict]) -> list[tuple[str, list[str]]]:
    """(heading, distinct values) of the provenance that the jobs share, and their total seconds."""
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


def _jobs(cells: list[Cell], store: Store, records: list[dict], out: Path | None) -> list[tuple[str, list]]:
    """(link to its log, or "", its name and JOB) of each finished job; records: of collect.devices."""
    done = [job for job in all_jobs(cells).values() if store.done(job)]
    return [
        (_link(store.path(job) / LOG, out), [line["job"], *(line.get(key, "") for key in JOB)])
        for job, line in zip(done, records, strict=True)
    ]


def _missing(cells: list[Cell], store: Store, frame: pd.DataFrame, out: Path | None) -> list[tuple[str, str, list]]:
    """(status, reason, (link to the log, or "", cell)) of what has no value, each cell once for its job."""
    jobs = all_jobs(cells)
    lost = frame[frame["status"] != "done"].drop_duplicates(["key", "dataset", "defense", "cem", "attacker", "split"])
    found = []
    for (status, reason), part in lost.groupby(["status", "reason"], sort=True):
        listed = []
        for row in part.itertuples(index=False):
            words = [names.dataset_title(row.dataset), names.row_label(row.defense, row.cem), row.protocol]
            words += [row.attacker or row.kind, row.split, "seed", str(row.seed)]
            listed.append((_link(store.workdir(jobs[row.key]) / LOG, out), " ".join(filter(None, words))))
        found.append((status, reason or "no reason recorded", listed))
    return found

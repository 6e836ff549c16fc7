"""tables/README.md: the suites with tables there, what each is, and where and when it was run."""

import json
from pathlib import Path

from benchmark.analysis.collect import all_jobs, devices
from benchmark.matrix.cells import Cell
from benchmark.report.keep import ASIDE
from benchmark.report.render import escape_markdown, pipe_table, write_text
from benchmark.store.store import Store

ABOUT = "about.json"  # in each folder of tables; the index is made only from these
TEXTS = ("suite", "description", "answer", "first", "last")


def write_index(cells: list[Cell], store: Store, out: Path, description: str, answer: str) -> Path:
    """Write about.json to the folder `out` (returns its path), and README.md beside that: a list of such folders.

    description: the suite's, in a line; answer: the verdicts' summary, a line for each claim, or "".
    """
    records = devices(cells, store)
    days = sorted(str(record.get("finished", ""))[:10] for record in records)
    about = {
        "suite": out.name,
        "description": description,
        "answer": answer.partition("\n")[0],
        "finished": len(records),
        "jobs": len(all_jobs(cells)),
        "first": days[0] if days else "",
        "last": days[-1] if days else "",
        "devices": sorted({str(record.get("device", "unknown")) for record in records}),
    }
    path = write_text(out / ABOUT, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    write_text(out.parent / "README.md", _listed(out.parent))
    return path


def _listed(tables: Path) -> str:
    folders = [folder for folder in sorted(tables.iterdir()) if ASIDE not in folder.name]
    found = [(folder, about) for folder in folders if (about := _about(folder)) is not None]
    rows = [
        [
            f"[{escape_markdown(about['suite'])}]({folder.name}/README.md)",
            *(escape_markdown(about[name]) for name in ("description", "answer")),
            f"{about['finished']} of {about['jobs']}",
            escape_markdown(
                about["first"] if about["first"] == about["last"] else f"{about['first']} to {about['last']}"
            ),
            escape_markdown("; ".join(about["devices"])),
        ]
        for folder, about in found
    ]
    headings = ["suite", "what it is", "first claim", "jobs", "run", "on"]
    parts = [
        "# Tables",
        "What `python -m benchmark report SUITE` wrote. In each folder, `report.html` is the file to open (git does "
        "not keep it: the same command makes it again); results.csv has every number.",
        pipe_table(rows, headings),
    ]
    return "\n\n".join(parts) + "\n"


def _about(folder: Path) -> dict | None:
    """The contents of a folder's about.json; None if it is not one of ours."""
    try:
        about = json.loads((folder / ABOUT).read_bytes())
        texts = {name: str(about[name]) for name in TEXTS}
        counts = {name: int(about[name]) for name in ("finished", "jobs")}
        return texts | counts | {"devices": [str(name) for name in about["devices"]]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None

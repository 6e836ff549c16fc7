"""Tables to files: Markdown, LaTeX, JSON, the tidy CSV and an index; the same frame gives the same bytes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from benchmark.analysis.frame import csv_text, tidy
from benchmark.errors import UserError
from benchmark.files import whole
from benchmark.report.latex import SETUP, Latex, escape_latex, layout, within_paper
from benchmark.report.tables import build_tables

_MARKDOWN = str.maketrans(
    {char: "\\" + char for char in "\\`*_[]|~$"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " ", "\r": " "}
)


def escape_markdown(item) -> str:
    """Text in which no character is markup, HTML included."""
    return str(item).translate(_MARKDOWN)


@cache
def environment(kind: str) -> Environment:
    """Templates of one kind ("md", "tex" or "html"). Every expression in them is escaped for that kind."""
    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    if kind == "html":
        options |= {"autoescape": True}
    elif kind == "md":
        options |= {"finalize": escape_markdown}
    else:  # LaTeX is full of braces and percent signs
        options |= {"finalize": escape_latex, "variable_start_string": "<<", "variable_end_string": ">>"}
        options |= {"block_start_string": "<%", "block_end_string": "%>"}
        options |= {"comment_start_string": "<#", "comment_end_string": "#>"}
    found = Environment(loader=PackageLoader("benchmark.report", "templates"), undefined=StrictUndefined, **options)
    found.globals |= {"layout": layout, "within_paper": within_paper, "setup": Latex(SETUP)}
    return found


def write_tables(
    frame: pd.DataFrame,
    lines: pd.DataFrame,
    out_dir: Path,
    compare: bool = False,
    extra_metrics: Sequence[str] = (),
    epochs: Mapping[tuple[str, str], str] | None = None,
) -> list[Path]:
    """Write NAME.md and NAME.tex of every table, all_tables.tex, results.csv, tables.json and README.md.

    frame, lines, compare, extra_metrics, epochs: as in `build_tables`. Returns the written paths. Raises UserError for
    a frame that is not tidy and for a folder that cannot be written.
    """
    frame = tidy(frame)
    tables = build_tables(frame, lines, compare, extra_metrics, epochs)
    texts = {}
    for table in tables:
        texts[f"{table.name}.md"] = environment("md").get_template("table.md.j2").render(table=table)
        texts[f"{table.name}.tex"] = environment("tex").get_template("table.tex.j2").render(table=table)
    texts["all_tables.tex"] = environment("tex").get_template("all_tables.tex.j2").render(tables=tables)
    texts["README.md"] = environment("md").get_template("index.md.j2").render(tables=tables)
    texts["results.csv"] = csv_text(frame)
    texts["tables.json"] = (
        json.dumps(
            [{"title": table.title} | asdict(table) for table in tables],
            indent=1,
            ensure_ascii=False,
            allow_nan=False,
        )
        + "\n"
    )
    return [write_text(Path(out_dir) / name, text) for name, text in texts.items()]


def write_text(path: Path, text: str) -> Path:
    """Write a file and the folders above it; returns the path. UserError where that cannot be done."""
    return write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> Path:
    """As write_text."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose a folder you may write to") from error
    return path

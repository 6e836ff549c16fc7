"""Tables to files: Markdown, LaTeX, JSON, the tidy CSV and an index; the same frame gives the same bytes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from tabulate import tabulate

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


def pipe_table(rows: Sequence[Sequence], headings: Sequence[str], **options) -> str:
    """A Markdown table of texts that are Markdown already. options: of tabulate."""
    return tabulate(rows, headers=headings, tablefmt="pipe", disable_numparse=True, **options)


def markdown_table(rows: Sequence[Sequence], headings: Sequence[str], **options) -> str:
    """A Markdown table of plain texts; its headings are Markdown already. options: of tabulate."""
    return pipe_table([[escape_markdown(item) for item in row] for row in rows], headings, **options)


def not_published(labels: Sequence[str]) -> list[str]:
    """The Markdown sentence on how cells depart from the published setting; [] where they do not."""
    return [f"Not at the published setting: {escape_markdown('; '.join(labels))}."] if labels else []


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


def rendered(kind: str, name: str, **values) -> str:
    """The template `name` of a kind ("md", "tex" or "html") with these values."""
    return environment(kind).get_template(f"{name}.{kind}.j2").render(**values)


def write_tables(
    frame: pd.DataFrame,
    lines: pd.DataFrame,
    out_dir: Path,
    compare: bool = False,
    extra_metrics: Sequence[str] = (),
    epochs: Mapping[tuple[str, str, str], str] | None = None,
    documents: Sequence[Path] = (),
) -> list[Path]:
    """Write NAME.md and NAME.tex of every table, all_tables.tex, results.csv, tables.json and README.md.

    frame, lines, compare, extra_metrics, epochs: as in `build_tables`; documents: written Markdown files of the folder
    that README.md names too. Returns the written paths. Raises UserError for a frame that is not tidy and for a folder
    that cannot be written.
    """
    frame = tidy(frame)
    tables = build_tables(frame, lines, compare, extra_metrics, epochs)
    texts = {}
    for table in tables:
        texts |= {f"{table.name}.{kind}": rendered(kind, "table", table=table) for kind in ("md", "tex")}
    texts["all_tables.tex"] = rendered("tex", "all_tables", tables=tables)
    others = {path.name: path.read_text("utf-8").partition("\n")[0].removeprefix("# ") for path in documents}
    texts["README.md"] = rendered("md", "index", tables=tables, others=others)
    texts["results.csv"] = csv_text(frame)
    data = [{"title": table.title} | asdict(table) for table in tables]
    texts["tables.json"] = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return write_texts(out_dir, texts)


def write_texts(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write each text to the file of its name in `folder`; returns the paths."""
    return [write_text(Path(folder) / name, text) for name, text in texts.items()]


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

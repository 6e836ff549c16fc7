"""The commands of data sets: data prepare, data list."""

from pathlib import Path
from typing import Annotated

import typer
from tabulate import tabulate

from benchmark.cli.app import KEPT, group
from benchmark.cli.options import Selection, Without, path_option, selecting
from benchmark.errors import UserError
from benchmark.output import say, say_lines

app = group("data", KEPT, "Prepare data sets and list them.")


@app.command()
@selecting
def prepare(
    names: Annotated[list[str], typer.Argument(help="data sets, or suites, whose data sets are meant")],
    source: Annotated[Path | None, path_option("folder or archive that is already on disk", "--from")] = None,
    *,
    selection: Annotated[Selection, Without("suite", "results")],
):
    """Download data sets, or read them from disk, check them and put them into the data folder.

    --where and --set are as for `run`, and choose among the data sets of a suite.
    """
    from benchmark import data

    found = [name for word in names for name in _datasets_of(word, selection)]
    wanted = list(dict.fromkeys(found))
    if source is not None and len(wanted) != 1:
        raise UserError(f"--from {source} holds one data set, but {', '.join(wanted) or 'none'} was asked for")
    for name in wanted:
        one = data.prepare(name, selection.data, source)
        say(f"{name}: {len(one.train)} training and {len(one.test)} test images, {one.classes} classes")


def _datasets_of(name: str, selection: Selection) -> list[str]:
    """The data set of that name, or those that the chosen cells of the suite of that name train on."""
    from benchmark.data import DATASETS
    from benchmark.matrix.source import suggest
    from benchmark.registry import HINT

    if name in DATASETS.names():
        return [name]
    suites = selection.file.matrix.suites
    if name not in suites:
        known = [*DATASETS.names(), *suites]
        raise UserError(f"'{name}' is neither a data set nor a suite; {suggest(name, known)}{HINT}")
    return selection.of(name).datasets()


@app.command("list")
@selecting
def list_(selection: Annotated[Selection, Without("suite", "where", "set_", "matrix", "results")]):
    """Say which data sets are prepared."""
    from benchmark import data

    say_lines(tabulate(data.describe(selection.data), headers="keys"))

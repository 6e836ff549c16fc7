"""The options that several commands share, each declared once: a Selection of cells, and the types of the others."""

import functools
import hashlib
import inspect
import os
import re
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from benchmark.errors import UserError
from benchmark.output import tell

if TYPE_CHECKING:  # commands load modules only when needed, so that --help is quick
    from benchmark.matrix.cells import Cell, Job
    from benchmark.matrix.load import MatrixFile
    from benchmark.store.store import Store


def path(text: str) -> Path:
    """The value of a path option or its environment variable: shells do not expand the ~ in --results=~/x."""
    return Path(os.path.expanduser(text))


def _suites() -> list[str]:
    """For the shell's completion."""
    from benchmark.matrix.load import MatrixFile

    return list(MatrixFile().matrix.suites)


def several(*names: str, **more):
    """An option that may be repeated; a list, empty without it."""
    return typer.Option(*names, default_factory=list, show_default=False, **more)


def path_option(text: str, *names: str, variable: str | None = None):
    """An option whose value is a path; variable: of the environment, the value without the option."""
    return typer.Option(*names, parser=path, envvar=variable, help=text)


Tables = Annotated[Path, path_option("folder of the tables", variable="BENCHMARK_TABLES")]
Device = Annotated[str, typer.Option(envvar="BENCHMARK_DEVICE", help="auto, cpu, cuda or cuda:N")]
AtOnce = Annotated[str, typer.Option("--cells-per-gpu", help="jobs at once on the device, GPU or CPU: auto, 1, 2, ...")]
Plots = Annotated[bool, typer.Option(help="figures as SVG, PDF and CSV in the folder plots")]
TABLES = Path("tables")


@dataclass(frozen=True)
class Selection:
    """Cells of a suite, and where matrix, data and results are. A command that takes one has all these options."""

    suite: Annotated[
        str,
        typer.Argument(autocompletion=_suites, help="a suite of the matrix, as `list` names them: smoke, cifar10, ..."),
    ] = ""
    where: Annotated[list[str], typer.Option(help="keep matching cells: defense=patrol,cem=on")] = field(
        default_factory=list
    )
    set_: Annotated[
        list[str], typer.Option("--set", help="change a value: train.epochs=2; or @FILE of `calibrate`")
    ] = field(default_factory=list)
    matrix: Annotated[Path | None, path_option("another matrix file")] = None
    data: Annotated[Path, path_option("folder of the prepared data sets", variable="BENCHMARK_DATA")] = Path("data")
    results: Annotated[Path, path_option("folder of the results", variable="BENCHMARK_RESULTS")] = Path("results")

    def of(self, suite: str) -> "Selection":
        """The same options for another suite."""
        return replace(self, suite=suite)

    def whole(self) -> "Selection":
        """The suite without --where."""
        return replace(self, where=[])

    @functools.cached_property
    def file(self) -> "MatrixFile":
        from benchmark.matrix.load import DEFAULT, MatrixFile

        return MatrixFile(self.matrix or DEFAULT)

    @functools.cached_property
    def cells(self) -> "list[Cell]":
        """UserError if none is left."""
        from benchmark.matrix.expand import expand, parse_where
        from benchmark.matrix.load import parse_set

        self._require_axes()
        cells = expand(self.file, self.suite, self.data, parse_where(self.where), parse_set(self.set_))
        if not cells:
            raise UserError(f"no cell of the suite '{self.suite}' is left by its exclusions and --where; choose others")
        return cells

    @functools.cached_property
    def jobs(self) -> "list[Job]":
        """The jobs of the cells, parents first."""
        from benchmark.matrix.expand import jobs

        return jobs(self.cells)

    @property
    def certain_jobs(self) -> "list[Job]":
        """`jobs`, whose keys are those of the images prepared here, not of those that the suite declares.

        UserError where a data set is not prepared and can be other images than the official ones.
        """
        from benchmark import data

        for name in self.datasets():
            if data.fingerprint(name, self.data) is None:
                raise UserError(f"which results belong to a suite with {name} is known only where {name} is prepared")
        return self.jobs

    @functools.cached_property
    def store(self) -> "Store":
        """The results, including those that come with the project."""
        from benchmark.store import shipped
        from benchmark.store.store import Store

        shipped.receive(self.results, tell)
        return Store(self.results)

    def out(self, tables: Path) -> Path:
        """The folder of the suite's tables. A part of the suite (--where) has a folder of its own beside it."""
        if not self.where:
            return tables / self.suite
        chosen = "_".join(sorted(part.strip() for text in self.where for part in text.split(",")))
        name = re.sub("[^A-Za-z0-9.+-]+", "-", chosen)
        if len(name) > 100:  # two long choices may begin alike
            name = f"{name[:91]}-{hashlib.sha256(chosen.encode()).hexdigest()[:8]}"
        return tables / f"{self.suite}-where-{name}"

    def datasets(self) -> list[str]:
        """The data sets that the cells are trained on, and those that their attackers use."""
        cells = [cell for cell in self.cells if cell.kind != "efficiency"]
        others = [cell.job.config.get("knowledge", {}).get("dataset") for cell in cells]
        return list(dict.fromkeys([*(cell.dataset for cell in cells), *filter(None, others)]))

    def require_data(self) -> list[str]:
        """`datasets`, checked before anything runs: the embedded one is prepared now. UserError for a missing one, and
        for a number of images that it does not have."""
        from benchmark import data

        names, trainings = self.datasets(), [job.config for job in self.jobs if job.kind == "train"]
        for name in names:  # one after the other: together they may not fit into memory
            loaded = data.load(name, self.data)
            for counts in (config["data"] for config in trainings if config["dataset"] == name):
                data.require_images(loaded, counts["train_images"], counts["test_images"])
        return names

    def _require_axes(self) -> None:
        """UserError for a suite that has no cell for any --where."""
        suite = self.file.matrix.suites.get(self.suite)
        if suite is None or suite.include or suite.efficiency:
            return  # `expand` reports an unknown suite
        lacking = [axis for axis in ("dataset", "defense", "cem", "protocol", "seed") if not getattr(suite, axis)]
        if lacking:
            where = self.file.where(("suites", self.suite))
            raise UserError(
                f"{where}: no cell of the suite '{self.suite}': it names no {', no '.join(lacking)}; add that"
            )


class Without:
    """Annotated[Selection, Without("results")]: a Selection whose command does not take these options."""

    def __init__(self, *names: str):
        self.names = names


def selecting(command: Callable) -> Callable:
    """A command for typer: its parameter `selection` is replaced by the options of a Selection's fields."""
    signature = inspect.signature(command)
    left_out = [
        name for without in get_args(signature.parameters["selection"].annotation)[1:] for name in without.names
    ]
    shared = [item for item in fields(Selection) if item.name not in left_out]

    @functools.wraps(command)
    def call(**given):
        chosen = {item.name: given.pop(item.name) for item in shared}
        return command(selection=Selection(**chosen), **given)

    parameters = []
    for parameter in signature.parameters.values():
        expanded = map(_parameter, shared) if parameter.name == "selection" else [parameter]
        parameters += [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in expanded]
    call.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportAttributeAccessIssue]
    return call


def _parameter(item: Field) -> inspect.Parameter:
    default = item.default if item.default_factory is MISSING else item.default_factory()
    if any(isinstance(info, typer.models.ArgumentInfo) for info in get_args(item.type)):
        default = inspect.Parameter.empty  # a command that has the argument requires it
    return inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=item.type)

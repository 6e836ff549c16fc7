"""Matrix files that extend one another: merges a file with all that it extends, and keeps the place of each value."""

import copy
import functools
import os
from pathlib import Path

from benchmark.errors import UserError
from benchmark.matrix.source import Source, read_source, shown

FOLDER = Path(__file__).parent
PAPER = FOLDER / "paper.yaml"
SHIPPED = "paper"  # the word by which a file extends the shipped matrix
MOST_FILES = 10  # that extend one another, one after the other


def read_matrix(path: Path) -> tuple[Source, Source]:
    """(the file merged over all that it extends, the last of these alone, which extends nothing).

    `paper.yaml` of this package stands for the shipped matrix, its experiments included. UserError, naming file and
    line, for what cannot be read, for a file that extends itself, and for too many that extend one another.
    """
    files = [shipped()] if _same(path, PAPER) else _chain(path)
    return functools.reduce(lambda above, below: above.over(below), files), files[-1]


def shipped() -> Source:
    """`paper.yaml` and every file of `experiments/`. UserError if two of them give the same suite or value."""
    whole = _parsed(FOLDER)
    return Source(copy.deepcopy(whole.value), whole.places)


@functools.cache  # a report needs it several times, and parsing is slow
def _parsed(folder: Path) -> Source:
    whole, _ = _read(PAPER)
    for path in sorted((folder / "experiments").glob("*.yaml")):
        source, _ = _read(path)
        for clash in source.clashes(whole):
            what = ".".join(map(str, clash))
            raise UserError(f"{source.where(clash)}: {what} stands at {whole.where(clash)} as well; rename one of them")
        whole = source.over(whole)
    return whole


def _chain(path: Path) -> list[Source]:
    """The file, the one that it extends, and so on to the one that extends none."""
    files, seen, what = [], [], "matrix"
    while True:
        source, extends = _read(path, what)
        files.append(source)
        seen.append(path)
        if extends is None:
            return files
        place = source.where(("extends",))
        if extends == SHIPPED:
            return [*files, shipped()]
        if not isinstance(extends, str):
            raise UserError(f"{place}: extends = {shown(extends)} is not allowed: give a path, or the word {SHIPPED}")
        path = path.parent / os.path.expanduser(extends)
        if not os.path.exists(path):
            raise UserError(
                f"{place}: there is no file {path} to extend; give a path relative to this file, or the word {SHIPPED}"
            )
        if any(_same(path, one) for one in seen):
            raise UserError(f"{place}: {path} extends this file, so this file cannot extend it; take one of them out")
        if len(files) == MOST_FILES:
            raise UserError(f"{place}: more than {MOST_FILES} files extend one another; write some of them into one")
        what = f"matrix that {place} extends,"


def _read(path: Path, what: str = "matrix") -> tuple[Source, object]:
    """(the file's own values, what it extends or None)."""
    source = read_source(path, what)
    extends = source.value.get("extends")
    own = {key: value for key, value in source.value.items() if key != "extends"}
    return Source(own, source.places), extends


def _same(path: Path, other: Path) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:  # one is missing or unreadable: then they differ
        return False

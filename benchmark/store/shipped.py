"""Results that come with the project: archives per row, imported into the store before any use.

    RESULTS/shipped/DATASET/DEFENCE[+cem].tar.gz          the row's finished trainings; of weights, the encoders
    RESULTS/shipped/DATASET/DEFENCE[+cem].SPLIT.tar.gz    its finished attacks on that split

Few files for git, the same bytes for the same results, and rewritten only if a row has new results.
"""

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmark.data import archives
from benchmark.data.files import digest
from benchmark.errors import UserError, reading
from benchmark.matrix.cells import Job
from benchmark.store import solid
from benchmark.store.archive import export, import_, loaded
from benchmark.store.store import Store, write_json

FOLDER, RECEIVED = "shipped", "shipped.json"


def receive(root: Path, say: Callable[[str], None]) -> None:
    """Import each shipped archive into the store at `root`, unless that was done before; `say` gets a line about it.

    What cannot be brought in stops nothing else, and is tried again next time. A read-only store is used unchanged.
    """
    failed: list[Exception] = []
    count = 0
    with _going_on(failed.append):
        if there := _archives(root, failed.append):
            store = Store(root)
            known, new = _known(store), {}
            for archive in there:
                with _going_on(failed.append):
                    sums = _sums(root, [archive])
                    if known | sums != known:
                        new[archive] = sums
            if new:
                store.check_writable()
            for archive, sums in new.items():
                with _going_on(failed.append):
                    brought = import_(store, archive).new
                    write_json(store.work / RECEIVED, _known(store) | sums)
                    count += len(brought)
    if failed:
        more = f"; and {len(failed) - 1} more" if len(failed) > 1 else ""
        say(f"results shipped in {root / FOLDER} are not brought in: {failed[0]}{more}")
    if count:
        say(f"{count} results that come with the project were brought into {root}")


def ship(store: Store, jobs: list[Job]) -> list[Path]:
    """Add the finished ones among `jobs` to the archives of their rows; returns the archives.

    UserError if an archive's results are not in the store; `receive` would import them.
    """
    rows: dict[Path, set[Path]] = {}
    for job in jobs:
        if store.done(job):
            dataset, row, _ = job.folder.split("/")
            part = f".{job.config['split']}" if job.kind == "attack" else ""
            rows.setdefault(store.root / FOLDER / dataset / f"{row}{part}.tar.gz", set()).add(store.path(job))
    for archive, folders in rows.items():
        solid.require(archive.parent, store.root)
        folders |= _held(store, archive)
        archive.parent.mkdir(parents=True, exist_ok=True)
        export(store, sorted(folders), archive, tensors=False)
    if rows:
        write_json(store.work / RECEIVED, _known(store) | _sums(store.root, rows))
    return sorted(rows)


def folders(store: Store) -> set[Path]:
    """The folders of all jobs that come with the project. UserError for an archive that cannot be read."""

    def stop(error: Exception) -> None:
        raise error

    return {folder for archive in _archives(store.root, stop) for folder in _held(store, archive)}


def _archives(root: Path, failed: Callable[[Exception], None]) -> list[Path]:
    """The shipped archives, in order; `failed` gets an error for each link, pipe or unreadable folder in the way."""
    found = []
    for dataset in _in(root / FOLDER, solid.folders, failed):
        for path in _in(dataset, _named, failed):
            with _going_on(failed):
                solid.require_file(path)
                found.append(path)
    return found


def _in(folder: Path, listing: Callable[[Path], list[Path]], failed: Callable[[Exception], None]) -> list[Path]:
    with _going_on(failed):
        solid.require_folder(folder)
        return listing(folder)
    return []


def _named(folder: Path) -> list[Path]:
    with reading(folder):
        names = sorted(os.listdir(folder))
    return [folder / name for name in names if name.endswith(".tar.gz") and not name.startswith(".")]


@contextlib.contextmanager
def _going_on(failed: Callable[[Exception], None]):
    """Ends the block at an error, which `failed` gets."""
    try:
        yield
    except (UserError, OSError) as error:
        failed(error)


def _held(store: Store, archive: Path) -> set[Path]:
    """The folders of the jobs that the archive holds, all of which are in the store. UserError if it is damaged."""
    if not archive.is_file():
        return set()
    folders = {store.root / Path(name).parent for name in archives.names(archive)}
    missing = sorted(str(folder) for folder in folders if not folder.is_dir())
    if missing:
        raise UserError(f"{archive} holds results that are not in the store ({missing[0]}); `store import` it first")
    return folders


def _sums(root: Path, archives: Iterable[Path]) -> dict[str, str]:
    """The archives' names below the folder of shipped ones, and their sha256."""
    return {path.relative_to(root / FOLDER).as_posix(): digest(path, "sha256") for path in archives}


def _known(store: Store) -> dict[str, str]:
    """Archive -> its sha256 when it was imported; {} if that is not recorded."""
    solid.require_file(store.work / RECEIVED)
    found = loaded(store.work / RECEIVED)
    return found if isinstance(found, dict) else {}

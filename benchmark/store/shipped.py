"""Results that come with the project: archives per row, imported into the store before any use.

    RESULTS/shipped/DATASET/DEFENCE[+cem].tar.gz          the row's finished trainings; of weights, the encoders
    RESULTS/shipped/DATASET/DEFENCE[+cem].SPLIT.tar.gz    its finished attacks on that split

Few files for git, the same bytes for the same results, and rewritten only if a row has new results.
"""

import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmark.data.files import digest
from benchmark.errors import UserError
from benchmark.matrix.expand import Job
from benchmark.store.archive import export, import_
from benchmark.store.store import Store, write_json

FOLDER, RECEIVED = "shipped", "shipped.json"


def receive(root: Path, say: Callable[[str], None]) -> None:
    """Import the shipped results into the store at `root`, unless that was done before; `say` gets a line about it.

    A read-only store is used unchanged.
    """
    archives = sorted((root / FOLDER).glob("*/*.tar.gz"))
    if not archives:
        return
    try:
        store = Store(root)
        known, sums = _known(store), _sums(root, archives)
        new = [path for path, (name, found) in zip(archives, sums.items(), strict=True) if known.get(name) != found]
        if not new:
            return
        count = sum(len(import_(store, path).new) for path in new)
        write_json(store.work / RECEIVED, known | sums)
    except (UserError, OSError) as error:
        say(f"the results shipped in {root / FOLDER} are not brought in: {error}")
        return
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
        folders |= _held(store, archive)
        archive.parent.mkdir(parents=True, exist_ok=True)
        export(store, sorted(folders), archive, tensors=False)
    if rows:
        write_json(store.work / RECEIVED, _known(store) | _sums(store.root, rows))
    return sorted(rows)


def folders(store: Store) -> set[Path]:
    """The folders of all jobs that come with the project."""
    return {folder for archive in (store.root / FOLDER).glob("*/*.tar.gz") for folder in _held(store, archive)}


def _held(store: Store, archive: Path) -> set[Path]:
    """The folders of the jobs that the archive holds, all of which are in the store."""
    if not archive.is_file():
        return set()
    with tarfile.open(archive) as content:
        folders = {store.root / Path(name).parent for name in content.getnames()}
    missing = sorted(str(folder) for folder in folders if not folder.is_dir())
    if missing:
        raise UserError(f"{archive} holds results that are not in the store ({missing[0]}); `store import` it first")
    return folders


def _sums(root: Path, archives: Iterable[Path]) -> dict[str, str]:
    """The archives' names below the folder of shipped ones, and their sha256."""
    return {path.relative_to(root / FOLDER).as_posix(): digest(path, "sha256") for path in archives}


def _known(store: Store) -> dict[str, str]:
    """Archive -> its sha256 when it was imported; {} if that is not recorded."""
    try:
        found = json.loads((store.work / RECEIVED).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}

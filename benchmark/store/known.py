"""The finished jobs of a store, of any suite, from their own descriptions."""

import json
from collections.abc import Callable
from pathlib import Path

from benchmark.errors import UserError, foreign
from benchmark.matrix.cells import Job
from benchmark.store import checksums, hygiene
from benchmark.store.store import Store


def finished_jobs(store: Store, say: Callable[[str], None]) -> list[Job]:
    """Every finished job whose parents are finished too, together with these, in the order of their folders.

    A result without a valid description, or in a folder that cannot be read, is left out; `say` gets a line about it.
    """
    said: dict[str, dict] = {}
    for folder, error in hygiene.walk(store.root):
        try:
            if error:
                raise error
            found = _described(folder)
            said[found["key"]] = found
        except UserError as error:
            say(str(error))
    jobs: dict[str, Job] = {}

    def job(key: str) -> Job | None:
        if key in said and key not in jobs:
            wanted = said[key]["parents"]
            parents = {role: found for role, parent in wanted.items() if (found := job(parent))}
            if len(parents) == len(wanted):
                jobs[key] = Job(said[key]["kind"], said[key]["config"], parents)
        return jobs.get(key)

    found = []
    for key in said:
        try:
            with foreign(f"the result {key[:12]} is not read"):  # a result from a stranger may contain anything
                one = job(key)
                found += [one] if one and store.done(one) else []
        except UserError as error:
            say(str(error))
    return found


def _described(folder: Path) -> dict:
    """A result's job.json: key, kind, config, parents (role -> key). UserError if it does not belong to the folder."""
    if problem := hygiene.foreign(folder):
        raise checksums.Damaged(problem)
    with foreign(f"{folder} is not read"):
        return json.loads(checksums.verified(folder / "job.json"))

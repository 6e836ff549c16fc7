"""What is installed: one list in three places, floors without known holes, and a lock file that fits."""

import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[1]
# the lowest versions without the holes that concern what is done here
SAFE = {
    "torch": "2.6",  # CVE-2025-32434: weights_only
    "pillow": "12.1.1",  # CVE-2024-28219, CVE-2025-48379, CVE-2026-25990
    "jinja2": "3.1.6",  # CVE-2025-27516
    "setuptools": "78.1.1",  # CVE-2025-47273
}


def listed(text: str, start: str) -> list[Requirement]:
    """The requirements quoted in a list of pyproject.toml that begins with `start`."""
    return [Requirement(item) for item in re.findall(r'"([^"]+)"', text[text.index(start) :].split("]\n")[0])]


@pytest.fixture(scope="module")
def places() -> dict[str, dict[str, Requirement]]:
    project = (PROJECT / "pyproject.toml").read_text()
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text())["dependencies"][-1]["pip"]
    lock = [line for line in (PROJECT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    extras = [
        item for name in ("tensorboard", "test", "ray", "slurm", "lpips") for item in listed(project, f"\n{name} = [")
    ]
    found = {
        "project": listed(project, "\ndependencies = [") + extras,
        "build": listed(project, "\nrequires = ["),
        "environment": list(map(Requirement, environment)),
        "lock": list(map(Requirement, lock)),
    }
    return {place: {canonicalize_name(it.name): it for it in some} for place, some in found.items()}


def test_floors_leave_out_versions_with_known_holes(places):
    for place in ("project", "build", "environment"):
        for name, least in SAFE.items():
            for requirement in filter(None, [places[place].get(name)]):
                major, _, rest = least.partition(".")
                older = f"{major}.0" if int(rest.split(".")[0]) else f"{int(major) - 1}.9"
                assert requirement.specifier.contains(least) or "==" in str(requirement.specifier), (place, requirement)
                assert not requirement.specifier.contains(older), (place, requirement)


def test_the_lock_has_one_version_of_everything(places):
    lock = places["lock"]
    for requirement in lock.values():
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), requirement
    wanted = {**places["environment"], **places["project"]}
    assert set(wanted) <= set(lock)
    for place in ("environment", "project"):
        for name, requirement in places[place].items():
            version = str(lock[name].specifier).removeprefix("==")
            assert requirement.specifier.contains(version), (place, requirement, version)


def test_the_environment_has_what_the_project_needs(places):
    needed = {name for name in places["project"] if name not in ("ray", "submitit")}
    assert needed == set(places["environment"])


def test_ci_names_actions_by_their_hash_and_asks_for_no_rights():
    text = (PROJECT / ".github" / "workflows" / "smoke.yml").read_text()
    used = re.findall(r"uses: (\S+)", text)
    assert used and all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action) for action in used), used
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}

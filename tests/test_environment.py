"""What a user's environment says of other work changes nothing here; what it says of ours is understood."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from benchmark import cli
from benchmark.matrix.load import parse_set
from tests.support.command_line import call, call_apart, copied, finished, place  # noqa: F401 (fixtures)
from tests.test_faults import PLUGIN

PROJECT = Path(__file__).parents[1]
ONE = ("--where", "attacker=decoder,split=infer,cem=off")


# -- figures


@pytest.mark.parametrize(
    ("backend", "settings"),
    [
        ("nonsense", ""),
        ("TkAgg", "text.usetex: True\nfont.family: serif\nfont.serif: Nowhere\n"),
        (
            "",
            "savefig.bbox: tight\nfigure.facecolor: red\nsavefig.transparent: True\naxes.grid: False\nfont.size: 30\n",
        ),
        ("", "no such key: 1\nfont.size: many\n"),
    ],
)
def test_figures_are_ours(finished, undisturbed, tmp_path, backend, settings):  # noqa: F811
    """A matrix of settings, in its own file and in the folder one stands in."""
    (tmp_path / "matplotlibrc").write_text(settings)
    variables = {"MPLBACKEND": backend, "MATPLOTLIBRC": str(tmp_path)}
    assert figures(finished, tmp_path / "tables", variables, tmp_path) == undisturbed


@pytest.fixture(scope="module")
def undisturbed(finished, tmp_path_factory) -> dict[str, bytes]:  # noqa: F811
    made = figures(finished, tmp_path_factory.mktemp("undisturbed"), {}, None)
    assert any(name.endswith(".pdf") for name in made)
    return made


def figures(finished, folder: Path, variables: dict[str, str], place: Path | None) -> dict[str, bytes]:  # noqa: F811
    """The figures of a report made in another process in the folder `place`."""
    words = [*finished.words("report", *ONE, "--plots"), "--tables", folder]
    words.remove("--no-plots")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MPL", "MATPLOTLIB"))}
    outcome = call_apart(*words, environment=plain | variables, where=place)
    assert outcome.code == 0 and "Traceback" not in outcome.err, outcome.err
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("plots/*")}


# -- paths


def test_the_home_in_every_path(copied, monkeypatch, tmp_path):  # noqa: F811
    """In options, arguments and variables."""
    monkeypatch.setenv("HOME", str(copied.folder))
    monkeypatch.chdir(tmp_path / "elsewhere") if (tmp_path / "elsewhere").mkdir() is None else None
    monkeypatch.setenv("BENCHMARK_RESULTS", "~/results")
    monkeypatch.setenv("BENCHMARK_TABLES", "~/tables")
    monkeypatch.setenv("BENCHMARK_DATA", str(copied.data))
    assert "done        22" in call("status", "smoke", "--matrix=~/matrix.yaml").out
    assert call("report", "smoke", "--matrix", "~/matrix.yaml", "--no-plots").code == 0
    assert call("diff", "~/tables/smoke", "~/tables/smoke/results.csv", "--markdown=~/x.md").code == 0
    assert call("diff", "smoke", "--matrix=~/matrix.yaml", "--against=~/tables/smoke").code == 0
    assert call("store", "export", "~/x.tar.gz", "--results=~/results").code == 0
    assert call("store", "import", "~/x.tar.gz", "--results=~/other").code == 0
    assert (copied.folder / "x.md").is_file() and (copied.folder / "other" / "photos").is_dir()
    (copied.folder / "s.yaml").write_text(yaml.safe_dump({"strengths": [{"where": {}, "set": {"train.epochs": 3}}]}))
    assert parse_set(["@~/s.yaml"])[0].value == 3
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("way", ["option", "variable", "lines"])
def test_a_plug_in_path_with_a_colon(place, tmp_path, monkeypatch, way):  # noqa: F811
    """Known in worker processes as well."""
    file = tmp_path / "a:b" / "fault.py"
    file.parent.mkdir()
    file.write_text(PLUGIN.format(body="return None"))

    def change(matrix, smoke):
        matrix["defenses"]["fault"] = {"noise_std": 0.025}
        smoke |= {"defense": ["fault"], "cem": ["off"], "efficiency": []}

    place.edit(change)
    words = [*place.words("run", *ONE), "--cells-per-gpu", "2"]
    monkeypatch.delenv("BENCHMARK_PLUGINS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if way == "option":
        words = ["--plugin", file, *words]
    elif way == "lines":
        monkeypatch.setenv("BENCHMARK_PLUGINS", f"{file}\n")
    else:  # no path with a colon can be told from two
        (tmp_path / "fault.py").write_bytes(file.read_bytes())
        monkeypatch.setenv("BENCHMARK_PLUGINS", "~/fault.py")
    done = call_apart(*words)
    assert done.code == 0 and len(place.finished()) == 2, done.err


# -- reproduce.sh


@pytest.fixture
def script(tmp_path) -> Path:
    """A copy of it, beside an environment whose python only tells how it was called."""
    folder = tmp_path / "project"
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in ("reproduce.sh", "environment.yml", "pyproject.toml"):
        shutil.copy(PROJECT / name, folder)
    if (PROJECT / "requirements.lock").exists():
        shutil.copy(PROJECT / "requirements.lock", folder)
    python = folder / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$PWD user=$PIP_USER target=$PIP_TARGET $@" >> {tmp_path}/called\n')
    python.chmod(0o755)
    return folder / "reproduce.sh"


def test_reproduce_goes_where_it_lies_and_installs_there(script, tmp_path):
    """From a relative path, where CDPATH knows another folder of that name, and with pip told to install elsewhere."""
    (tmp_path / "other" / "project").mkdir(parents=True)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "CDPATH": str(tmp_path / "other")}
    environment |= {"PIP_USER": "1", "PIP_TARGET": str(tmp_path / "target"), "PYTHONHOME": "/nowhere"}
    command = ["bash", "project/reproduce.sh", "test"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    called = (tmp_path / "called").read_text().splitlines()
    assert len(called) >= 4 and all(line.startswith(f"{script.parent} user=0 target= ") for line in called), called
    assert any("-m pip install" in line for line in called) and "-m pytest" in called[-1]


def test_reproduce_removes_only_an_environment_that_it_made(script, tmp_path):
    """One without pip, as `uv venv` makes it, stays; one that was made here and is broken is made anew."""
    python, tools = script.parent / ".venv" / "bin" / "python", tmp_path / "tools"
    tools.mkdir()
    made = 'mkdir -p .venv/bin && printf "#!/bin/sh\\n" > .venv/bin/python && chmod +x .venv/bin/python'
    (tools / "python3").write_text(f'#!/bin/sh\n[ "$1" = -m ] && {made}\nexit 0\n')
    (tools / "python3").chmod(0o755)
    python.write_text("#!/bin/sh\nexit 1\n")
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(tmp_path)}
    command, mine = ["bash", script, "test"], script.parent / ".venv" / "mine"
    mine.touch()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and mine.exists(), done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: {script.parent}/.venv has no pip and was not made by")
    shutil.move(script.parent / ".venv", tmp_path / "moved")
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0
    mine.touch()
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0 and mine.exists()
    (script.parent / ".venv" / ".installed").unlink()
    python.write_text("#!/bin/sh\nexit 1\n")
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0 and not mine.exists()


@pytest.mark.parametrize("suite", ["cifar10", "smoke"])
def test_every_option_goes_to_the_commands_that_know_it(script, tmp_path, suite):
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    options = ["--device", "cuda:1", "--where", "cem=on", "--set=train.epochs=2", "--cells-per-gpu=2", "--wait"]
    options += ["--compare", "--no-plots", "--tables", "t t", "--results=r", "--plugin", "mine.py"]
    done = subprocess.run(["bash", script, suite, *options], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    called = [line.partition("-m benchmark ")[2] for line in (tmp_path / "called").read_text().splitlines()]
    chosen, plugin = f"{suite} --where cem=on --set=train.epochs=2", "--plugin mine.py"
    assert [line for line in called if line] == [
        f"{plugin} data prepare {chosen}",
        f"{plugin} run {chosen.replace(suite, f'{suite} --device cuda:1')} --cells-per-gpu=2 --wait --results=r",
        *([f"{plugin} diff {chosen} --results=r"] if suite != "smoke" else []),
        f"{plugin} report {chosen} --compare --no-plots --tables t t --results=r",
    ]
    for wrong in (["--devise", "cpu"], ["--device"]):
        done = subprocess.run(["bash", script, suite, *wrong], env=environment, capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr


def test_the_options_of_reproduce_are_those_of_the_commands():
    """No option of `run`, `report` or `diff` is forgotten there."""
    text = (PROJECT / "reproduce.sh").read_text()
    commands = typer.main.get_command(cli.app).commands
    for name in ("run", "report", "diff"):
        known = {word for param in commands[name].params for word in (*param.opts, *param.secondary_opts)}
        known = {word for word in known if word.startswith("--")} - {"--help"}
        assert known and all(f"{word} " in text or f"{word})" in text for word in known), (name, known)

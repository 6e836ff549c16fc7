"""Plug-ins by name: one class a name, found by every thread, and a file that does not load says so each time."""

import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmark.errors import UserError
from benchmark.registry import FILES, Registry


@pytest.fixture
def registries(tmp_path, monkeypatch):
    """write(text): two registries of an empty package whose plug-in is a file with that text."""
    (tmp_path / "empty_package").mkdir()
    (tmp_path / "empty_package" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    plugin = tmp_path / "plugin.py"
    monkeypatch.setenv(FILES, str(plugin))

    def write(text: str) -> tuple[Registry, Registry]:
        plugin.write_text(textwrap.dedent(text))
        return tuple(Registry(kind, "empty_package", "none") for kind in ("defence", "attack"))

    return write


def test_a_name_is_given_once():
    registry = Registry("defence", "benchmark.defenses", "none")
    registry.register("x")(type("First", (), {}))
    with pytest.raises(UserError, match="rename one"):
        registry.register("x")(type("Second", (), {}))


def test_a_thread_waits_for_what_another_loads(registries, monkeypatch):
    defences, attacks = registries(
        """
        import time
        import waiting_room
        time.sleep(0.2)  # here the other threads come
        for registry in waiting_room.registries:
            registry.register("late")(type(registry.kind, (), {}))
        """
    )
    room = type("module", (), {"registries": (defences, attacks)})
    monkeypatch.setitem(sys.modules, "waiting_room", room)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda turn: (defences, attacks)[turn % 2].get("late"), range(8)))
    assert {cls.__name__ for cls in found} == {"defence", "attack"}


def test_what_does_not_load_says_so_at_each_look_up(registries):
    defences, _ = registries("import no_such_module_anywhere")
    for _ in range(2):
        with pytest.raises(UserError, match="plugin.py does not load: .*no_such_module_anywhere"):
            defences.get("any")

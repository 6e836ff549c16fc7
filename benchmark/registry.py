"""Plug-ins by name: the files of one of our packages, the entry points of installed packages, and files that the user
names on the command line. No other code is ever loaded, whatever a store or a data set says.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import os
import pkgutil
import re
import sys
import threading
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Generic, TypeVar

from benchmark.errors import UserError, foreign
from benchmark.text import NAME

# the named files, separated by os.pathsep, or one per line, as paths may contain it; worker processes inherit it
FILES = "BENCHMARK_PLUGINS"
HINT = "; what a plug-in brings needs --plugin FILE before the command"  # for a name that is not known
_LOADING = threading.RLock()  # one for all registries: a named file may register classes of several kinds


Kind = TypeVar("Kind")  # the base of the classes of a registry


class Registry(Generic[Kind]):
    """Classes of one kind (defences, attacks, data sets), each registered under a name by its own file.

    kind: the word used in messages; package: every module in it is imported before the first look-up;
    entry_points: the entry-point group through which an installed package adds its own classes.
    """

    def __init__(self, kind: str, package: str, entry_points: str):
        self.kind, self.package, self.group = kind, package, entry_points
        self._classes: dict[str, type[Kind]] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[type], type]:
        """Class decorator: `@DEFENSES.register("dropout")`. Sets the class attribute `name`.

        Raises UserError if another class already has the name, or if it cannot name a folder.
        """

        def add(cls: type) -> type:
            if not isinstance(name, str) or not re.fullmatch(NAME, name):
                raise UserError(f"{cls} registers the {self.kind} {name!r}; a name has letters, digits, _ . + -")
            known = self._classes.get(name)
            if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise UserError(f"two classes register the {self.kind} '{name}': {known} and {cls}; rename one")
            cls.name = name
            self._classes[name] = cls
            return cls

        return add

    def get(self, name: str) -> type[Kind]:
        """The class registered as `name`; UserError listing the known names if there is none."""
        self._discover()
        if name not in self._classes:
            raise UserError(f"unknown {self.kind} '{name}'; known: {', '.join(self.names())}{HINT}")
        return self._classes[name]

    def names(self) -> list[str]:
        self._discover()
        return sorted(self._classes)

    def _discover(self) -> None:
        """Import everything once. Other threads wait meanwhile, so that they do not see a partial list."""
        with _LOADING:
            if self._discovered:
                return
            self._discovered = True  # set early: an imported file may look itself up
            try:
                self._import()
            except BaseException:
                self._discovered = False  # the next look-up reports again what does not load
                raise

    def _import(self) -> None:
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        for point in entry_points(group=self.group):
            with _loading(f"the plug-in '{point.name}' ({point.value}) of the group {self.group}"):
                point.load()
        for path in _named():
            load_file(path)


def _named() -> list[Path]:
    """The files that the environment names."""
    text = os.environ.get(FILES, "")
    parts = text.split("\n") if "\n" in text else text.split(os.pathsep)
    return [Path(os.path.expanduser(part)) for part in parts if part]


def remember(paths: list[Path]) -> None:
    """Name more files in the environment, for the worker processes."""
    if paths:
        os.environ[FILES] = "".join(f"{path.resolve()}\n" for path in dict.fromkeys([*_named(), *paths]))


def load_file(path: Path) -> None:
    """Run a Python file once, so that its classes register. UserError if it is not one or does not load."""
    path = path.resolve()
    name = f"benchmark_plugin_{path.stem}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
    if name in sys.modules:
        return
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"the plug-in {path} is not a Python file; give the path of a .py file")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader  # as for every path that ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, as for any import
    try:
        with _loading(f"the plug-in {path}"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


@contextlib.contextmanager
def _loading(plugin: str):
    """UserError naming the plug-in for any error in the block, including our own."""
    with foreign(f"{plugin} does not load"):
        try:
            yield
        except UserError as error:
            raise UserError(f"{plugin} does not load: {error}") from error

"""Plug-ins by name: the files of one of our packages, and the entry points of packages the user installed."""

import importlib
import pkgutil
from importlib.metadata import entry_points

from benchmark.errors import UserError


class Registry:
    """Classes of one kind (defences, attacks, data sets), each registered under a name by its own file.

    kind: the word used in messages; package: every module in it is imported before the first look-up;
    entry_points: the entry-point group through which an installed package adds its own classes.
    """

    def __init__(self, kind: str, package: str, entry_points: str):
        self.kind, self.package, self.group = kind, package, entry_points
        self._classes: dict[str, type] = {}
        self._discovered = False

    def register(self, name: str):
        """Class decorator: `@DEFENSES.register("dropout")`. Sets the class attribute `name`.

        Raises UserError where another class already has the name.
        """

        def add(cls: type) -> type:
            known = self._classes.get(name)
            if known is not None and known.__qualname__ != cls.__qualname__:
                raise UserError(f"two classes register the {self.kind} '{name}': {known} and {cls}; rename one")
            cls.name = name
            self._classes[name] = cls
            return cls

        return add

    def get(self, name: str) -> type:
        """The class registered as `name`; UserError listing the known names where there is none."""
        self._discover()
        if name not in self._classes:
            raise UserError(f"unknown {self.kind} '{name}'; known: {', '.join(self.names())}")
        return self._classes[name]

    def names(self) -> list[str]:
        self._discover()
        return sorted(self._classes)

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        for point in entry_points(group=self.group):
            try:
                point.load()
            except Exception as error:  # a plug-in may fail in any way; name it instead of dying in it
                raise UserError(
                    f"the plug-in '{point.name}' ({point.value}) of the group {self.group} does not load: {error}"
                ) from error

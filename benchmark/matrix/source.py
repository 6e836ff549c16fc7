"""Reading a YAML file so that an error can name the file, the line, the key, the value and what is allowed."""

import difflib
import re
from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError

from benchmark.errors import UserError


class Loader(yaml.SafeLoader):
    """Safe YAML in which only true and false are booleans, so `on` and `off` stay the words they are here."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))


class Source:
    """A parsed YAML file: `.value` the plain data, `.line(path)` the line (from 1) where a key stands."""

    def __init__(self, path: Path, what: str = "matrix"):
        self.path = path
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the {what} {path}: {error}; give a readable YAML file") from error
        self._lines: dict[tuple, int] = {(): 1}
        try:
            loader = Loader(text)
            node = loader.get_single_node()
            self._walk(node, (), set())
            self.value = None if node is None else loader.construct_document(node)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
        if not isinstance(self.value, dict):
            raise UserError(f"{path}, line 1: the {what} must be a mapping of sections, not {self.value!r}")

    def line(self, path: tuple) -> int:
        """The line of the deepest part of `path` that the file holds."""
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    def _walk(self, node, path: tuple, seen: set) -> None:
        if node is None or id(node) in seen:  # an alias may point back at its own anchor
            return
        seen = seen | {id(node)}
        if isinstance(node, yaml.MappingNode):
            keys = set()
            for key, value in node.value:
                name = key.value if isinstance(key, yaml.ScalarNode) else str(key.value)
                if name in keys:
                    where = f"{self.path}, line {key.start_mark.line + 1}"
                    raise UserError(f"{where}: the key '{name}' stands twice; keep one")
                keys.add(name)
                self._lines[(*path, name)] = key.start_mark.line + 1
                self._walk(value, (*path, name), seen)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._lines[(*path, index)] = value.start_mark.line + 1
                self._walk(value, (*path, index), seen)


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """One sentence for the first thing wrong: `where` (a file and line), the key, the value, what is allowed."""
    first = gravest(error)
    path = [part for part in first["loc"] if not str(part).startswith(("function-", "nullable["))]
    key = ".".join(str(part) for part in path) or model.__name__
    if first["type"] == "extra_forbidden":
        fields = _fields_at(model, path[:-1])
        return f"{where}: unknown key '{key}' (value {first['input']!r}); {suggest(str(path[-1]), fields)}"
    if first["type"] == "missing":
        return f"{where}: the key '{key}' is missing"
    message = first["msg"][:1].lower() + first["msg"][1:]
    return f"{where}: {key} = {first['input']!r} is not allowed: {message}"


def gravest(error: ValidationError) -> dict:
    """The error to tell of: an unknown key before a missing one, which is often the same key misspelt."""
    return min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")


def suggest(word: str, known) -> str:
    """`did you mean 'x'? allowed: ...` for a word that is none of `known`."""
    known = sorted({str(name) for name in known})
    near = difflib.get_close_matches(word, known, 1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}allowed: {', '.join(known) or 'nothing'}"


def _fields_at(model: type[BaseModel], path: list) -> list[str]:
    """The field names of the model that a path of keys leads to (dictionary keys and indices are skipped)."""
    for part in path:
        field = model.model_fields.get(str(part)) if model else None
        if field is None:
            continue
        inner = [a for a in _annotations(field.annotation) if isinstance(a, type) and issubclass(a, BaseModel)]
        if inner:
            model = inner[0]
    return list(model.model_fields)


def _annotations(annotation):
    yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _annotations(inner)

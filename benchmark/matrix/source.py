"""Reading a YAML file so that an error can name the file, the line, the key, the value and what is allowed."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from benchmark.errors import UserError
from benchmark.text import told

MOST_TEXT, MOST_VALUES = 1 << 20, 100_000  # characters and values of a file; the shipped matrix has a fiftieth


class Loader(yaml.SafeLoader):
    """Safe YAML in which only true and false are booleans, so `on` and `off` stay words."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))


@dataclass(frozen=True)
class Source:
    """Plain data of YAML files. places: path of keys -> `FILE, line N` of that value."""

    value: dict
    places: dict[tuple, str]

    def where(self, path: tuple) -> str:
        """The place of the deepest existing part of `path`."""
        while path not in self.places:
            path = path[:-1]
        return self.places[path]

    def over(self, below: "Source") -> "Source":
        """This merged over another: mappings merge key by key; any other value of this one replaces the other's."""
        gone = set(_clashes(self.value, below.value))
        kept = {
            path: place
            for path, place in below.places.items()
            if not any(path[:depth] in gone for depth in range(1, len(path) + 1))
        }
        return Source(_merged(self.value, below.value), kept | self.places)

    def clashes(self, below: "Source") -> list[tuple]:
        """The paths that both define: of values, and of whole suites."""
        ours, theirs = self.value.get("suites"), below.value.get("suites")
        both = [name for name in ours if name in theirs] if isinstance(ours, dict) and isinstance(theirs, dict) else []
        return [("suites", name) for name in both] or _clashes(self.value, below.value)


def read_source(path: Path, what: str = "matrix") -> Source:
    """The data of a YAML file, a mapping. UserError for a file that cannot be read, is not YAML or is too large."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MOST_TEXT + 1)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the {what} {path}: {error}; give a readable YAML file") from error
    value, lines = read_yaml(text, str(path))
    if not isinstance(value, dict):
        raise UserError(f"{path}, line 1: the {what} must be a mapping of sections, not {shown(value)}")
    return Source(value, {keys: f"{path}, line {line}" for keys, line in lines.items()})


def _merged(above: object, below: object) -> Any:
    if not (isinstance(above, dict) and isinstance(below, dict)):
        return above
    return below | {key: _merged(value, below[key]) if key in below else value for key, value in above.items()}


def _clashes(above: object, below: object, path: tuple = ()) -> list[tuple]:
    """The paths at which both have a value, and not both a mapping."""
    if not (isinstance(above, dict) and isinstance(below, dict)):
        return [path]
    both = [key for key in above if key in below]
    return [clash for key in both for clash in _clashes(above[key], below[key], (*path, str(key)))]


def read_yaml(text: str, where: str) -> tuple[object, dict[tuple, int]]:
    """The plain data of a YAML text, and the line (from 1) of each path of keys in it; the only way that YAML is read.

    UserError naming `where` for text that is not YAML, or that is larger than any matrix: in characters, or in values
    once all aliases are expanded (a few nested ones make billions).
    """
    if len(text) > MOST_TEXT:
        raise UserError(f"{where} is longer than {MOST_TEXT} characters, which no matrix is; give another file")
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        lines = _Lines(where).of(node)
        return (None if node is None else loader.construct_document(node)), lines
    except UserError:
        raise
    except Exception as error:  # a value that does not fit its tag can make PyYAML fail in any way
        raise UserError(f"{where} is not valid YAML: {told(error) or type(error).__name__}") from error


class _Lines:
    """Walks over the nodes of a document, with aliases expanded, before any value is built."""

    def __init__(self, where: str):
        self.where = where
        self.lines: dict[tuple, int] = {(): 1}
        self.values, self.text = MOST_VALUES, MOST_TEXT  # remaining allowance

    def of(self, node) -> dict[tuple, int]:
        if node is not None:
            self._walk(node, (), frozenset())
        return self.lines

    def _walk(self, node, path: tuple, above: frozenset) -> None:
        if id(node) in above:
            raise UserError(f"{self._at(node)}: an alias refers to a value that contains it; write the value out")
        self.values -= 1
        self.text -= len(node.value) if isinstance(node, yaml.ScalarNode) else 0
        if min(self.values, self.text) < 0:
            raise UserError(
                f"{self.where}, its aliases written out, has more than {MOST_VALUES} values or {MOST_TEXT} characters, "
                "which no matrix has; give another file"
            )
        if isinstance(node, yaml.MappingNode):
            keys = set()
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise UserError(f"{self._at(key)}: a key must be a word or a number")
                if key.value in keys:
                    raise UserError(f"{self._at(key)}: the key '{key.value}' stands twice; keep one")
                keys.add(key.value)
                self.lines[(*path, key.value)] = key.start_mark.line + 1
                self._walk(value, (*path, key.value), above | {id(node)})
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self.lines[(*path, index)] = value.start_mark.line + 1
                self._walk(value, (*path, index), above | {id(node)})

    def _at(self, node) -> str:
        return f"{self.where}, line {node.start_mark.line + 1}"


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """One sentence for the first thing wrong: `where` (a file and line), the key, the value, what is allowed."""
    first = gravest(error)
    path = [part for part in first["loc"] if not str(part).startswith(("function-", "nullable["))]
    key = ".".join(str(part) for part in path) or model.__name__
    if first["type"] == "extra_forbidden":
        fields = _fields_at(model, path[:-1])
        return f"{where}: unknown key '{key}' (value {shown(first['input'])}); {suggest(str(path[-1]), fields)}"
    if first["type"] == "missing":
        remedy = (
            "; write it, or extend a matrix that has it (extends: paper)" if "extends" in model.model_fields else ""
        )
        return f"{where}: the key '{key}' is missing{remedy}"
    message = first["msg"][:1].lower() + first["msg"][1:]
    return f"{where}: {key} = {shown(first['input'])} is not allowed: {message}"


def shown(value) -> str:
    """A value for a message: its Python repr, shortened to fit into a sentence."""
    try:
        text = repr(value)
    except ValueError:  # an int of thousands of digits
        text = f"a long {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}..."


def gravest(error: ValidationError) -> ErrorDetails:
    """The error to report: an unknown key before a missing one, as the two are often one misspelt key."""
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

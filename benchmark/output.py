"""The only way in which text reaches the standard streams: no file name, result or plug-in can control the terminal.

Nothing else in this project prints (a test checks this).
"""

import contextlib
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable
from typing import Any

import rich.console
from rich.segment import Segment

from benchmark.text import plain


class ReaderGone(Exception):
    """Nobody reads stdout any more, as after `| head -1`: no message is needed."""


def say(text: object) -> None:
    """A line on stdout."""
    say_lines(plain(text))


def say_lines(text: str) -> None:
    """Several lines on stdout, such as a table. ReaderGone; OSError if they cannot be written (a full disk)."""
    try:
        print("\n".join(map(plain, text.split("\n"))), flush=True)
    except BrokenPipeError:
        raise ReaderGone from None


def say_folded(text: object, indent: str = "  ") -> None:
    """A line on stdout; on a narrow terminal it is folded into several, the further ones indented."""
    line = plain(text)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else len(line)
    say_lines(textwrap.fill(line, max(width, 20), subsequent_indent=indent, replace_whitespace=False) if line else "")


def tell(text: object) -> None:
    """A line on stderr, if possible."""
    print(plain(text), file=sys.stderr)


@contextlib.contextmanager
def standing_streams():
    """While the block runs, the standard streams exist, even if they were closed before, and accept every character.
    stderr never fails: messages are not results, so a lost terminal or a full disk must not end a run."""
    for number in range(3):  # the next opened file, such as a result, would get a closed one's number
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before, sink = (sys.stdout, sys.stderr), open(os.devnull, "w")  # noqa: SIM115 (closed below)
    sys.stdout, sys.stderr = before[0] or sink, _Unfailing(before[1] or sink)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # an ASCII locale cannot encode an en dash
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        _drop_unwritten(before[0], 1)
        _drop_unwritten(before[1], 2)
        sys.stdout, sys.stderr = before
        sink.close()


class _Unfailing:
    """A stream whose writes fail silently."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):  # ValueError: it was closed
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.stream.flush()

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


def _drop_unwritten(stream: Any, number: int) -> None:
    """Drop unwritten text: it would fail again when Python ends, with another exit status."""
    try:
        if stream is not None:
            stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            if stream and stream.fileno() == number:
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)


class Console(rich.console.Console):
    """A rich console that prints text literally: only rich itself may send control characters."""

    def render(self, renderable, options=None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment("\n".join(map(plain, segment.text.split("\n"))), segment.style)

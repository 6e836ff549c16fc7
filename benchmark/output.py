"""The one way in which text reaches the standard streams: no file name, result or plug-in can steer the terminal.

Nothing else in this project prints (a test looks).
"""

import sys
from collections.abc import Iterable

import rich.console
from rich.segment import Segment

from benchmark.text import plain


def say(text: object) -> None:
    """A line on stdout."""
    print(plain(text))


def say_lines(text: str) -> None:
    """Several lines on stdout, such as a table."""
    print("\n".join(map(plain, text.split("\n"))))


def tell(text: object) -> None:
    """A line on stderr."""
    print(plain(text), file=sys.stderr)


class Console(rich.console.Console):
    """A rich console on which text is text: only rich itself may send control characters."""

    def render(self, renderable, options=None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment("\n".join(map(plain, segment.text.split("\n"))), segment.style)

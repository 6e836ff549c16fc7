"""The command line on a real pseudo-terminal: what it writes there, and the signals that a terminal sends."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from pathlib import Path

from tests.support.command_line import FORKS, main


class Terminal:
    """Runs `python -m benchmark WORDS` with all three standard streams on a new terminal of the given size; use as a
    context manager. environment: as it is on that terminal."""

    def __init__(self, words: list, environment: dict[str, str], columns: int = 100, lines: int = 40):
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        environment = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
        given = (os.ttyname(self.slave), list(map(str, words)), environment, Path.cwd())
        self.process = FORKS.Process(target=_on_terminal, args=given)
        self.process.start()
        self.seen = b""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.join()
        self.read()
        os.close(self.master)
        os.close(self.slave)

    def read(self, seconds: float = 0.0) -> bytes:
        """All that was written so far, after at most `seconds` of waiting for more."""
        with contextlib.suppress(OSError):  # the other end is closed, or ours is
            while select.select([self.master], [], [], seconds)[0]:
                found = os.read(self.master, 65536)
                if not found:
                    break
                self.seen += found
        return self.seen

    def wait_for(self, text: str, seconds: float) -> None:
        """Until `text` was written. AssertionError with all that was, where it does not come."""
        deadline = time.monotonic() + seconds
        while text.encode() not in self.read(0.1):
            assert time.monotonic() < deadline and self.process.is_alive(), (text, self.seen[-3000:].decode())

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        os.kill(self.process.pid, signal.SIGINT)

    def wait(self, seconds: float) -> int:
        """The exit status, once the program has ended."""
        deadline = time.monotonic() + seconds
        while self.process.is_alive():
            self.read(0.05)
            assert time.monotonic() < deadline, self.seen[-3000:].decode()
        self.read()
        return self.process.exitcode


def _on_terminal(name: str, *given) -> None:
    os.setsid()
    main([os.open(name, os.O_RDWR | os.O_NOCTTY)] * 3, *given)  # not its controlling one, so that no SIGHUP comes

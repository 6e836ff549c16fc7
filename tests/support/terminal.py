"""A program on a real pseudo-terminal: what it writes there, and the signals that a terminal sends."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time


class Terminal:
    """Runs `words` with all three standard streams on a new terminal of the given size; use as a context manager."""

    def __init__(self, words: list[str], environment: dict[str, str], columns: int = 100, lines: int = 40):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        environment = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            words,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
            preexec_fn=_listen,
        )
        os.close(slave)
        self.seen = b""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.read()
        os.close(self.master)

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
            assert time.monotonic() < deadline and self.process.poll() is None, (text, self.seen[-3000:].decode())

    def wait(self, seconds: float) -> int:
        """The exit status, once the program has ended."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            self.read(0.05)
            assert time.monotonic() < deadline, self.seen[-3000:].decode()
        self.read()
        return self.process.returncode


def _listen() -> None:
    """As in a terminal, Ctrl-C is not ignored, even where the tests themselves run in a shell's background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

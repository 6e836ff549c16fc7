"""Files that appear complete or not at all, and what the system's own files say."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path; when the block succeeds, one rename moves it to `path`; otherwise nothing changes.

    Two processes never write to the same temporary file, even in different containers. The file gets the rights of the
    umask, however the block writes it (safetensors allows only the owner).
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def proc(name: str, key: str) -> str | None:
    """What the first line `key: ...` of Linux' /proc/`name` says; None if there is none."""
    try:
        with open(f"/proc/{name}") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith(key)), None)
    except OSError:
        return None

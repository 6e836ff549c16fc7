"""Files that appear complete or not at all."""

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

"""The temporary folder of a command: gone after it, and after a kill by the next command that needs one.

Imports no torch.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK, LOCKED = ".lock", ".locked"
"""A file that the living command holds a lock on, and one that is made once it does."""


@contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """A new folder `bench-<purpose>-*`; it is gone after the block."""
    sweep()
    with tempfile.TemporaryDirectory(prefix=f"bench-{purpose}-") as name:
        folder = Path(name)
        with FileLock(folder / LOCK):
            (folder / LOCKED).touch()
            yield folder


def sweep() -> None:
    """Remove the folders of this user's commands that were killed: nobody holds their locks any more."""
    for folder in Path(tempfile.gettempdir()).glob("bench-*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid() or not (folder / LOCKED).is_file():
                continue
            with FileLock(folder / LOCK, timeout=0):
                shutil.rmtree(folder)
        except (Timeout, OSError):  # it is in use, or another command removes it
            continue

"""The archive of a GPU run: one file in the output folder that always holds everything. Imports no torch.

It is replaced as a whole after every message of a part: at most eight files come back from a lent machine, and nobody
knows when the run is killed. Some megabytes are kept free for it, so that a disk that is full does not hold it up.
"""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

from bench.cli import BadInput
from bench.gpu import simulation

ARCHIVE, BALLAST = "gpu_run.tar.gz", ".ballast"
BALLAST_BYTES = 8 << 20


class Archive:
    """The archive in a folder. `behind` says why it lacks what came last; empty where it doesn't."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.behind = folder, ""
        with contextlib.suppress(OSError):  # then the disk is full already, and writing says so
            self._ballast.write_bytes(os.urandom(1 << 20) * (BALLAST_BYTES >> 20))

    @property
    def path(self) -> Path:
        return self.folder / ARCHIVE

    @property
    def _ballast(self) -> Path:
        return self.folder / BALLAST

    def write(self, texts: Mapping[str, str]) -> None:
        """Replace the archive. Where the disk is full, what was kept free for it is given up first."""
        content = _packed(texts)
        try:
            replaced(self.path, content)
        except OSError:
            self.give_up_ballast()
            try:
                replaced(self.path, content)
            except OSError as error:  # the next message tries again, and the run prints at its end what is not there
                self.behind = error.strerror or str(error)
                return
        self.behind = ""

    def give_up_ballast(self) -> None:
        """Free the space that is kept for the archive."""
        with contextlib.suppress(OSError):
            self._ballast.unlink(missing_ok=True)


def read(path: Path) -> dict[str, str]:
    """The files of an archive, by name.

    Raises:
        BadInput: if it is none.
    """
    try:
        with tarfile.open(path) as archive:
            files = {m.name: archive.extractfile(m) for m in archive.getmembers() if m.isfile()}
            if elsewhere := [name for name in files if Path(name).name != name]:  # they would be unpacked there
                raise ValueError(f"it has a file {elsewhere[0]}")
            return {name: file.read().decode() for name, file in files.items() if file is not None}
    except (OSError, tarfile.TarError, EOFError, ValueError) as error:
        raise BadInput(f"{path}: no archive of bench.gpu_run ({error}): give a {ARCHIVE}") from error


def replaced(path: Path, content: bytes) -> None:
    """Write a file as a whole: what is there is the old one or the new one."""
    partial = path.with_name(f".{path.name}.part")
    full = simulation.running() and simulation.disk_is_full((path.parent / BALLAST).exists())
    try:
        (Path("/dev/full") if full else partial).write_bytes(content)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _packed(texts: Mapping[str, str]) -> bytes:
    """A tar of these files, compressed lightly: this runs beside measurements."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=2) as archive:
        for name, text in texts.items():
            content = text.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()

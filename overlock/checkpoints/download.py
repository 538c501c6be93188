"""Files fetched once into torch hub's cache: resumable, with size and SHA-256 checked before every use."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import datetime, timezone
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from tqdm import tqdm

log = logging.getLogger(__name__)

ATTEMPTS = 3
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 20
OFFLINE_VARIABLES = ("OVERLOCK_OFFLINE", "HF_HUB_OFFLINE")


class Unavailable(RuntimeError):
    """The file is not in the cache and cannot be fetched, or is not what its sum says. One line, with the mend."""


@dataclass(frozen=True)
class Release:
    """A released file. `sha256` and `size` (bytes) are None where they are not known beforehand."""

    name: str  # the model that it is of
    url: str
    file: str  # its name in the cache
    sha256: str | None = None
    size: int | None = None

    @property
    def path(self) -> Path:
        """Where it lies once fetched: torch hub's cache ($TORCH_HOME, or torch.hub.set_dir)."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.file

    def command(self) -> str:
        """The shell command that fetches it to its place."""
        return f"curl -L -C - --create-dirs -o {shlex.quote(str(self.path))} {shlex.quote(self.url)}"


def offline() -> bool:
    """Whether a variable of `OFFLINE_VARIABLES` forbids the network."""
    return any(os.environ.get(v, "").lower() not in ("", "0", "false", "no", "off") for v in OFFLINE_VARIABLES)


def fetch(release: Release) -> Path:
    """The path of a released file, downloaded if it is not in the cache.

    A sum that is not known beforehand is kept in `<file>.sha256.json` on first use, and holds from then on.

    Raises:
        Unavailable: if it cannot be fetched (with the command that would), or its size or sum is wrong.
    """
    path = release.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                if offline():
                    raise Unavailable(f"{_absent(release)} and the network is switched off: {release.command()}")
                _download(release)
            _verify(release, path)
    except OSError as error:
        raise Unavailable(
            f"{release.name}: cannot keep weights in {path.parent}: {error.strerror or error}; "
            "give TORCH_HOME a folder with room"
        ) from error
    return path


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _absent(release: Release) -> str:
    return f"{release.name}: its weights are not at {release.path}"


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256.json")


def _expected(release: Release, path: Path) -> dict[str, Any]:
    """Known sum and size: of the table, or as recorded on first use."""
    known: dict[str, Any] = {}
    if _sidecar(path).exists():
        try:
            known = dict(json.loads(_sidecar(path).read_text(encoding="utf-8")))
        except ValueError as error:
            raise Unavailable(
                f"{release.name}: {_sidecar(path)} is damaged: remove it to record the sum anew"
            ) from error
    return {
        "sha256": release.sha256 or known.get("sha256"),
        "size_bytes": release.size or known.get("size_bytes"),
    }


def _verify(release: Release, path: Path) -> None:
    expected, size = _expected(release, path), path.stat().st_size
    if expected["size_bytes"] is not None and size != expected["size_bytes"]:
        raise Unavailable(
            f"{release.name}: {path} has {size} bytes, not {expected['size_bytes']}: remove it to fetch it again"
        )
    digest = sha256(path)
    if expected["sha256"] is None:
        values = {"url": release.url, "sha256": digest, "size_bytes": size, "first_used": _now()}
        _sidecar(path).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        log.warning("%s: the SHA-256 of %s was not known: recorded %s", release.name, path.name, digest)
    elif digest != expected["sha256"]:
        raise Unavailable(
            f"{release.name}: {path} has SHA-256 {digest}, not {expected['sha256']}: remove it to fetch it again"
        )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _download(release: Release) -> None:
    """Fetch to `<file>.part`, going on where an earlier attempt stopped, and move it to its place when whole."""
    part = release.path.with_name(release.file + ".part")
    tag = part.with_name(part.name + ".etag")
    why = ""
    for _ in range(ATTEMPTS):
        try:
            total = _attempt(release, part, tag)
            break
        except urllib.error.HTTPError as error:
            raise Unavailable(f"{_absent(release)} and {release.url} answers {error.code} {error.reason}") from error
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
            why = str(getattr(error, "reason", "") or error)
    else:
        raise Unavailable(f"{_absent(release)} and cannot be fetched ({why}): {release.command()}")
    size = part.stat().st_size
    if (total is not None and size != total) or (release.size is not None and size != release.size):
        part.unlink()
        raise Unavailable(f"{release.name}: {release.url} gave {size} bytes, not {release.size or total}")
    if release.sha256 is not None and (digest := sha256(part)) != release.sha256:
        part.unlink()
        raise Unavailable(f"{release.name}: {release.url} gave a file of SHA-256 {digest}, not {release.sha256}")
    tag.unlink(missing_ok=True)
    part.replace(release.path)


def _attempt(release: Release, part: Path, tag: Path) -> int | None:
    """One request, for what is still missing; returns the whole file's size where the server tells."""
    have = part.stat().st_size if part.exists() else 0
    if have and have == release.size:
        return have
    headers = {"User-Agent": "overlock"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag.exists():
            headers["If-Range"] = tag.read_text(encoding="utf-8")  # another file by now: sent from its start
    request = urllib.request.Request(release.url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing after what is there: whole already, or of another file
            raise
        part.unlink()
        return _attempt(release, part, tag)
    with response:
        resumed = response.status == 206
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        etag = response.headers.get("ETag")
        if etag and not etag.startswith("W/"):
            tag.write_text(etag, encoding="utf-8")
        bar = tqdm(
            total=total, initial=start, unit="B", unit_scale=True, desc=release.file, disable=not sys.stderr.isatty()
        )
        with bar, part.open("ab" if resumed else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(f"stopped at {part.stat().st_size} of {total} bytes")
    return total

"""Files fetched once into torch hub's cache: resumable, with size and SHA-256 checked before every use."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
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

from overlock.checkpoints.reading import read_checkpoint

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
        """Where it lies once fetched: torch hub's cache ($TORCH_HOME, or torch.hub.set_dir).

        Raises:
            Unavailable: where there is no home that the cache could be in: a folder of the name `~` is none.
        """
        cache = Path(torch.hub.get_dir())
        if cache.parts[:1] == ("~",):
            raise Unavailable(f"{self.name}: there is no home to keep weights in: name a folder by TORCH_HOME")
        return cache / "checkpoints" / self.file

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
        if not path.exists():
            if offline():
                raise Unavailable(f"{_absent(release)} and the network is switched off: {release.command()}")
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                if not path.exists():  # another process may have fetched it meanwhile
                    _download(release)
    except OSError as error:
        raise Unavailable(
            f"{release.name}: cannot keep weights in {path.parent}: {error.strerror or error}; "
            "give TORCH_HOME a folder with room"
        ) from error
    try:
        _verify(release, path)
    except OSError as error:
        raise Unavailable(f"{release.name}: cannot read {path}: {error.strerror or error}") from error
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


def _expected(release: Release, path: Path) -> tuple[str | None, int | None]:
    """Known sum and size: of the table, or as recorded on first use."""
    try:
        known: Any = json.loads(_sidecar(path).read_text(encoding="utf-8"))
        return release.sha256 or str(known["sha256"]), release.size or int(known["size_bytes"])
    except FileNotFoundError:
        return release.sha256, release.size
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Unavailable(f"{release.name}: {_sidecar(path)} is damaged: remove it to record the sum anew") from error


def _verify(release: Release, path: Path) -> None:
    """Check size and sum. Where none is known, the file must hold weights, and its sum is recorded."""
    (expected, length), size = _expected(release, path), path.stat().st_size
    recorded = f" and {_sidecar(path)}" if _sidecar(path).exists() else ""
    if length is not None and size != length:
        raise Unavailable(
            f"{release.name}: {path} has {size} bytes, not {length}: remove it{recorded} to fetch it again"
        )
    if expected is None:
        _check_weights(release, path, f"{path} is not what was released; remove it to fetch it again")
    digest = sha256(path)
    if expected is None:
        _record(release, path, {"url": release.url, "sha256": digest, "size_bytes": size, "first_used": _now()})
    elif digest != expected:
        raise Unavailable(
            f"{release.name}: {path} has SHA-256 {digest}, not {expected}: remove it{recorded} to fetch it again"
        )


def _check_weights(release: Release, path: Path, what: str) -> None:
    try:
        read_checkpoint(path)
    except ValueError as error:
        raise Unavailable(f"{release.name}: {what} ({error})") from error


def _record(release: Release, path: Path, values: dict[str, Any]) -> None:
    """Write the side file, aside first, so that nobody reads half of it; a folder of others' stays as it is."""
    part = _sidecar(path).with_name(f"{_sidecar(path).name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        part.replace(_sidecar(path))
    except OSError as error:
        log.warning("%s: the SHA-256 of %s cannot be recorded (%s)", release.name, path.name, error.strerror or error)
        return
    log.warning("%s: the SHA-256 of %s was not known: recorded %s", release.name, path.name, values["sha256"])


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _download(release: Release) -> None:
    """Fetch to `<file>.part`, going on where an earlier attempt stopped, and move it to its place when it is whole.

    It is kept if its sum is the known one, or, where none is known, if it can be read as weights.
    """
    part = release.path.with_name(release.file + ".part")
    tag = part.with_name(part.name + ".etag")
    why = ""
    for _ in range(ATTEMPTS):
        try:
            total = _attempt(release, part, tag)
            break
        except urllib.error.HTTPError as error:
            reason = " ".join(str(error.reason).split())
            raise Unavailable(f"{_absent(release)} and {release.url} answers {error.code} {reason}") from error
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError, ValueError) as error:
            why = str(getattr(error, "reason", "") or error)  # ValueError: an address that is none, in a redirect
    else:
        raise Unavailable(f"{_absent(release)} and cannot be fetched ({why}): {release.command()}")
    try:
        size = part.stat().st_size
        if (total is not None and size != total) or (release.size is not None and size != release.size):
            raise Unavailable(f"{release.name}: {release.url} gave {size} bytes, not {release.size or total}")
        if release.sha256 is None:
            _check_weights(release, part, f"{release.url} gave no weights: does it ask for a login?")
        elif (digest := sha256(part)) != release.sha256:
            raise Unavailable(f"{release.name}: {release.url} gave a file of SHA-256 {digest}, not {release.sha256}")
    except Unavailable:
        part.unlink()
        raise
    finally:
        tag.unlink(missing_ok=True)
    _sidecar(release.path).unlink(missing_ok=True)  # of a file that was removed
    part.replace(release.path)


def _attempt(release: Release, part: Path, tag: Path) -> int | None:
    """One request, for what is still missing; returns the whole file's size where the server tells."""
    have = part.stat().st_size if part.exists() else 0
    if have and have == release.size:
        return have
    headers = {"User-Agent": "overlock", "Accept-Encoding": "identity"}
    if have and (known := _etag(tag)):
        headers |= {"Range": f"bytes={have}-", "If-Range": known}  # another file by now: sent from its start
    request = urllib.request.Request(release.url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or "Range" not in headers:
            raise
        tag.unlink()  # nothing after what is there: whole already, or of another file; from its start, then
        return _attempt(release, part, tag)
    with response:
        start, total = _span(response, have)
        etag = response.headers.get("ETag") or ""
        tag.unlink(missing_ok=True)
        if re.fullmatch(r'"[!-~]*"', etag):  # a strong one
            tag.write_text(etag, encoding="utf-8")
        bar = tqdm(
            total=total, initial=start, unit="B", unit_scale=True, desc=release.file, disable=not sys.stderr.isatty()
        )
        with bar, part.open("ab" if start else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(f"stopped at {part.stat().st_size} of {total} bytes")
    return total


def _etag(tag: Path) -> str:
    """The tag of the file that a part is of; empty if unknown or damaged: then all is fetched anew."""
    try:
        text = tag.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
    return text if re.fullmatch(r'"[!-~]*"', text) else ""


def _span(response: Any, have: int) -> tuple[int, int | None]:
    """Where an answer starts in the file, and the whole file's size where the server tells.

    Raises:
        ConnectionError: if it answers with another part than was asked for, or with no number of bytes.
    """
    length = response.headers.get("Content-Length")
    if length is not None and not (length.isascii() and length.isdigit()):
        raise ConnectionError(f"the server sends Content-Length {length!r}")
    if response.status != 206:
        if response.status != 200:
            raise ConnectionError(f"the server answers {response.status}")
        return 0, None if length is None else int(length)
    given = response.headers.get("Content-Range") or ""
    parts = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", given)
    if parts is None or int(parts[1]) != have:
        raise ConnectionError(f"the server sends {given or 'a part'}, and not the part from byte {have}")
    return have, int(parts[2]) + 1 if parts[3] == "*" else int(parts[3])

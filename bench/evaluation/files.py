"""What a folder of images holds: files, folders, and what is left out, by one rule for every reader.

Hidden and system names are left out, links are followed unless they loop, and suffixes are read without regard to case.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from bench.cli import BadInput

EXTENSIONS = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
SYSTEM = ("__MACOSX", "lost+found", "@eaDir")
NAMED = 3


class UnreadableImage(ValueError):
    """An image that cannot be used; the message names it and says why."""


LeftOut = dict[str, list[str]]
"""Why names are left out -> these names."""

HIDDEN, NO_IMAGE, LOOP = "hidden or a system's", "no image by its suffix", "a link to a folder that holds it"


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM


def is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in EXTENSIONS


def natural_key(name: str) -> tuple[list[str | tuple[int, str]], str]:
    """timm's sorting key, in which numbers within names count as numbers; then the name, lest `1` and `01` tie.

    A number counts by how many digits it has, and then by these: Python makes no numbers of thousands of them.
    """
    return [_of_number(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.lower())], name


def _of_number(digits: str) -> tuple[int, str]:
    plain = (digits if digits.isascii() else "".join(str(int(digit)) for digit in digits)).lstrip("0")
    return len(plain), plain


def some(names: Sequence[str]) -> str:
    """How many names there are, and the first of them, of which bytes that are no UTF-8 could not be printed."""
    names = [name.encode(errors="backslashreplace").decode() for name in names]
    return f"{len(names)} ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''})"


def described(left_out: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """A sentence for each reason why something is left out."""
    return tuple(f"left out, {reason}: {some(names)}" for reason, names in left_out.items() if names)


def refuse_repeated(where: str, names: Iterable[str], what: str = "is there twice") -> None:
    """Make sure that no name occurs twice.

    Raises:
        BadInput: naming it.
    """
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise BadInput(f"{where}: {repeated[0]} {what}: leave one of them")


@dataclass
class Listing:
    """What is below a folder, by its relative name with `/`."""

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=dict)

    def leave_out(self, reason: str, name: str) -> None:
        self.left_out.setdefault(reason, []).append(name)

    def images(self, suffixes: Sequence[str] = EXTENSIONS) -> Iterator[str]:
        """The files of these suffixes; the others are left out."""
        for name in self.files:
            if PurePosixPath(name).suffix.lower() in suffixes:
                yield name
            else:
                self.leave_out(NO_IMAGE, name)


def listing(root: Path) -> Listing:
    """Everything below `root`, in the order of names.

    Raises:
        BadInput: for a folder that cannot be read.
    """
    found = Listing()

    def visit(folder: Path, above: frozenset[str]) -> None:
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            raise BadInput(f"cannot read {folder}: {error.strerror}") from error
        for name in names:
            path = folder / name
            relative = path.relative_to(root).as_posix()
            if is_hidden(name):
                found.leave_out(HIDDEN, relative)
            elif os.path.isdir(path):
                real = os.path.realpath(path)
                if real in above:
                    found.leave_out(LOOP, relative)
                else:
                    found.folders.append(relative)
                    visit(path, above | {real})
            elif os.path.isfile(path) or not os.path.exists(path):  # a link to nothing is an unreadable image
                found.files.append(relative)
            else:
                found.leave_out("no regular file", relative)

    visit(root, frozenset({os.path.realpath(root)}))
    return found

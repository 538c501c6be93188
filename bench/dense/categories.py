"""The classes of a dense model and what stands for them in a set: COCO's, ADE20K's, or those of `--categories`.

`--categories` is a number, or a file that lists the classes in the order of the model's outputs: JSON of objects with
`id` and `name` (a list, or the `categories` of COCO's annotations), or text with a class a line, `ID NAME` or `NAME`.
Several ids of one name are one class. Importing this imports no torch.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.cli import BadInput
from bench.evaluation.files import refuse_repeated, some
from bench.files import read_text

IGNORED = 255
"""What a pixel of no class becomes; as a label of a file it is of none either, unless it is named."""
LEFT_OUT = "ignored"
"""The name that a file gives to labels of no class."""
STANDARD = {"ade20k": 150, "coco": 80}
MEND = "give --categories the number of classes, or a file with `ID NAME` a line"
LISTED = 20  # classes of a note

Listed = Sequence[tuple[int | None, str]]


@dataclass(frozen=True)
class Classes:
    """Classes in the order of the model's outputs.

    Attributes:
        names: of each.
        ids: of each, what stands for it in the annotations: category ids, or labels of pixels; none of a class that the
            set does not have.
        ignored: labels of pixels that are of no class.
        custom: whether they are `--categories`'.
    """

    names: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    ignored: frozenset[int] = frozenset()
    custom: bool = False

    def __len__(self) -> int:
        return len(self.names)

    @property
    def of_id(self) -> dict[int, int]:
        """Id -> class."""
        return {i: k for k, ids in enumerate(self.ids) for i in ids}

    @property
    def mapping(self) -> list[list[Any]]:
        """As it is kept with results and checkpoints: each class's name and ids."""
        return [[name, list(ids)] for name, ids in zip(self.names, self.ids, strict=True)]

    def pixels(self, label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Labels of a file (H, W) -> classes, `IGNORED` where a pixel is of none."""
        table = np.full(256, IGNORED, dtype=np.uint8)
        for i, k in self.of_id.items():
            table[i] = k
        return table[label]

    def unknown(self, label: NDArray[np.uint8]) -> list[int]:
        """Labels of a file that are neither of a class nor ignored."""
        present = np.flatnonzero(np.bincount(label.ravel(), minlength=256))
        return [int(i) for i in present if int(i) not in self.ignored and int(i) not in self.of_id]

    def note(self) -> str:
        """How classes are numbered."""
        each = [f"{k} {name} ({', '.join(map(str, ids)) or 'not in the set'})" for k, (name, ids) in
                enumerate(zip(self.names, self.ids, strict=True))]  # fmt: skip
        shown = each if len(each) <= LISTED else [*each[: LISTED - 1], "...", each[-1]]
        return f"{len(each)} classes by --categories, each with its ids in the set: {', '.join(shown)}"


def of_pixels(given: str | None) -> Classes:
    """The classes of labels of pixels, 8 bits each. A number N, or names alone: labels 1 to N, of which 0 is ignored.

    Raises:
        BadInput: if the file cannot be used.
    """
    listed = _listed(given) if given is not None else STANDARD["ade20k"]
    if isinstance(listed, int):
        listed = [(None, str(i)) for i in range(1, listed + 1)]
    plain = all(i is None for i, _ in listed)
    classes = _grouped([(k, name) for k, (_, name) in enumerate(listed, start=1)] if plain else listed)
    ignored = set(classes.pop(LEFT_OUT, ()))
    labels = [i for ids in classes.values() for i in ids]
    if not labels or not all(0 <= i <= IGNORED for i in (*labels, *ignored)):
        raise BadInput(f"--categories {given}: labels of pixels are 0 to {IGNORED}, and one or more are of a class")
    ignored |= {0} if plain else set()
    ignored |= {IGNORED} - set(labels) if given is not None else set()
    return Classes(tuple(classes), tuple(classes.values()), frozenset(ignored), given is not None)


def of_objects(given: str | None, categories: Sequence[Mapping[str, Any]], path: Path) -> Classes:
    """The classes of objects, by the ids of `categories`, which `path` has. A number: all of these, in order of ids.

    Raises:
        BadInput: if the file cannot be used, or fits none of the categories.
    """
    names = {int(c["id"]): str(c.get("name", c["id"])) for c in sorted(categories, key=lambda c: c["id"])}
    listed = _listed(given) if given is not None else len(names)
    if isinstance(listed, int):
        if listed != len(names):
            raise BadInput(f"{path} has {len(names)} categories: --categories {given}: give {len(names)}")
        return Classes(tuple(names.values()), tuple((i,) for i in names), custom=given is not None)
    if any(i is None for i, _ in listed):
        refuse_repeated(f"{path}, categories", names.values(), "is the name of two, which --categories does not tell")
    of_name = {name: i for i, name in names.items()}
    for i, name in listed:
        if i in names and names[i] != name and name != LEFT_OUT:
            raise BadInput(f"--categories {given}: {i} is {name}, and in {path} {names[i]}: mend the one or the other")
    found = _grouped([(of_name.get(name, -1) if i is None else i, name) for i, name in listed])
    found.pop(LEFT_OUT, None)
    classes = {name: tuple(i for i in ids if i in names) for name, ids in found.items()}
    if not any(classes.values()):
        raise BadInput(f"--categories {given}: none is in {path}, whose categories are {some(list(of_name))}")
    return Classes(tuple(classes), tuple(classes.values()), custom=True)


def narrowed(dataset: dict[str, Any], classes: Classes) -> tuple[dict[str, Any], list[str]]:
    """COCO's annotations of these classes alone, each class under one id, and why which are left out."""
    first = {i: ids[0] for ids in classes.ids for i in ids}
    kept = [
        {**a, "id": number, "category_id": first[a["category_id"]]}  # pycocotools takes id 0 for no match
        for number, a in enumerate(dataset["annotations"], start=1)
        if a["category_id"] in first
    ]
    names = {c["id"]: str(c.get("name", c["id"])) for c in dataset["categories"]}
    others = Counter(names[a["category_id"]] for a in dataset["annotations"] if a["category_id"] not in first)
    notes = [f"left out, objects of categories that --categories does not name: {_counted(others)}"] if others else []
    categories = [{"id": ids[0], "name": n} for n, ids in zip(classes.names, classes.ids, strict=True) if ids]
    return {**dataset, "annotations": kept, "categories": categories}, notes


def _counted(others: Mapping[str, int]) -> str:
    return f"{sum(others.values())} ({some([f'{number} {name}' for name, number in others.items()])} categories)"


def _grouped(listed: Iterable[tuple[int | None, str]]) -> dict[str, tuple[int, ...]]:
    """Name -> its ids, in the order in which names first come."""
    groups: dict[str, tuple[int, ...]] = {}
    for i, name in listed:
        assert i is not None
        groups[name] = (*groups.get(name, ()), i)
    return groups


def _listed(given: str) -> int | Listed:
    """What `--categories` says: a number of classes, or ids and names.

    Raises:
        BadInput: if it cannot be read, or an id stands twice.
    """
    if re.fullmatch(r"[0-9]{1,4}", given):
        if not 0 < int(given) < IGNORED:
            raise BadInput(f"--categories {given}: give 1 to {IGNORED - 1} classes")
        return int(given)
    path = Path(given)
    text = read_text(path, MEND)
    listed = _json(path, text) if text.lstrip()[:1] in ("[", "{") else _lines(path, text)
    if not 0 < len({name for _, name in listed} - {LEFT_OUT}) < IGNORED:
        raise BadInput(f"--categories {path}: it names {len(listed)} classes: {MEND}")
    ids = [str(i) for i, _ in listed if i is not None]
    refuse_repeated(f"--categories {path}", (f"id {i}" for i in ids))
    if not ids:
        refuse_repeated(f"--categories {path}", (name for _, name in listed))
    return listed


def _json(path: Path, text: str) -> Listed:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"--categories {path} is no JSON: {error}: {MEND}") from error
    entries = content.get("categories") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not all(_is_entry(entry) for entry in entries):
        raise BadInput(f"--categories {path}: it has no list of objects with `id` and `name`: {MEND}")
    return [(entry["id"], entry["name"].strip()) for entry in entries]


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"].strip():
        return False
    return isinstance(entry.get("id"), int) and not isinstance(entry["id"], bool) and entry["id"] >= 0


def _lines(path: Path, text: str) -> Listed:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    parts = [re.fullmatch(r"([0-9]{1,9})[\s,;:]+(\S.*)", line) for line in lines]
    if all(part is None for part in parts):
        return [(None, line) for line in lines]
    wrong = [line for line, part in zip(lines, parts, strict=True) if part is None]
    if wrong:
        raise BadInput(f"--categories {path}: {wrong[0]!r} has no id and name, and other lines have: {MEND}")
    return [(int(part[1]), part[2].strip()) for part in parts if part]

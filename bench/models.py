"""The models that the suite knows by a short name, as data. Importing this imports no torch.

A model is a size of a family (`bench/families.py`); any other timm model name works as itself (`entry_for_timm`).
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from bench.cli import BadInput
from bench.families import FAMILIES as OWN
from bench.families import TIMM, Family
from bench.plugins import FAMILIES

FORMS = ("train", "deploy")


@dataclass(frozen=True)
class Entry:
    """One model: its name, short and registered with timm, and where its published figures are."""

    name: str
    family: Family
    resolution: int | None = None  # that its released weights are evaluated at; None: timm's own configuration says
    aliases: tuple[str, ...] = ()
    published: tuple[str, ...] = ()  # names in published.csv; the first one's weights are those of `resolution`

    def forms(self, asked: str) -> tuple[str, ...]:
        """The forms to measure for `asked` (deploy, train or both): the model's only form if it has but one."""
        if asked == "both" or len(self.family.forms) == 1:
            return self.family.forms
        return (asked,)


MODELS: Mapping[str, Entry] = MappingProxyType({
    family.model(size): Entry(
        family.model(size), family, family.resolution(size), family.aliases(size), family.published(size)
    )
    for family in FAMILIES.values()
    for size in family.sizes
})  # fmt: skip
"""Short name -> entry, by family and size."""

_ALIASES = {alias: entry.name for entry in MODELS.values() for alias in entry.aliases}


def find(name: str) -> Entry | None:
    """The entry of a short name or alias (`OverLoCK-T`, `moganet_small`); None if the suite has none of that name."""
    key = name.lower().replace("-", "_")
    return MODELS.get(_ALIASES.get(key, key))


def family_of(model: str) -> Family:
    """The family of a model by its short name, also of a size that goes by timm's name; timm for any other."""
    if model in MODELS:
        return MODELS[model].family
    return next((family for family in FAMILIES.values() if model.startswith(f"{family.name.lower()}_")), TIMM)


def entry_of(name: str) -> Entry:
    """The entry of a short name or alias, or of a name that is not the suite's and may be timm's."""
    return find(name) or entry_for_timm(name)


def entry_for_timm(name: str) -> Entry:
    """The entry of a timm model that has no short name here: one form, timm's own recipe, no published figures."""
    return Entry(name, TIMM)


def unknown(name: str, timm_names: Sequence[str] = (), hint: str = "any timm model name works too") -> BadInput:
    """The error for a name that is neither ours nor timm's, with the nearest names that are."""
    key = name.lower().replace("-", "_")
    near = difflib.get_close_matches(key, [*MODELS, *_ALIASES], n=3, cutoff=0.6)
    near += difflib.get_close_matches(key, timm_names, n=3, cutoff=0.7)
    nearest = f"did you mean {', '.join(dict.fromkeys(near))}?" if near else f"the suite has {', '.join(MODELS)}"
    return BadInput(f"unknown model {name!r}: {nearest} ({hint})")


def is_pattern(name: str) -> bool:
    """Whether a name stands for several: `all`, or one with wildcards as in a shell (`overlock_*`)."""
    return name == "all" or any(sign in name for sign in "*?[")


def matching(pattern: str) -> list[str]:
    """The short names that a pattern stands for, in the suite's order.

    Raises:
        BadInput: if there are none.
    """
    if pattern == "all":  # other packages' by their names: what holds of the suite's figures need not hold of theirs
        return [name for name, entry in MODELS.items() if entry.family.name in OWN]
    found = fnmatch.filter(MODELS, pattern.lower().replace("-", "_"))
    if not found:
        raise BadInput(f"--models {pattern}: no model of the suite matches; it has {', '.join(MODELS)}")
    return found


def chosen(names: Sequence[str]) -> list[Entry]:
    """The entries asked for, each once. A name that may be timm's is left for the process that imports it to judge.

    Raises:
        BadInput: for a pattern that no model of the suite matches.
    """
    entries: dict[str, Entry] = {}
    for name in names:
        for short in matching(name) if is_pattern(name) else (name,):
            entry = entry_of(short)
            entries.setdefault(entry.name, entry)
    return list(entries.values())


ANCHOR = "convnext_t"
"""What ratios refer to where nothing else is asked for and several models were named by a pattern."""


def baseline_of(asked: str | None, given: Sequence[str], names: Sequence[str]) -> str:
    """The short name of the model that others are compared with: the one asked for, else the last of those `given`; of
    a pattern, `ANCHOR` if `names`, the models that were given, have it.

    Raises:
        BadInput: if it is not among the models.
    """
    if asked is not None:
        return named(asked, "--baseline", names)
    return ANCHOR if is_pattern(given[-1]) and ANCHOR in names else names[-1]


def named(name: str, option: str, names: Sequence[str]) -> str:
    """The short name of one of the models compared."""
    entry = find(name)
    short = entry.name if entry else name
    if short not in names:
        raise BadInput(f"{option} {name or repr(name)}: not among --models {' '.join(names)}; give one of them")
    return short


def checkpoint(text: str, names: Sequence[str]) -> tuple[str, str]:
    """`MODEL=PATH` -> short name and path of a file that exists."""
    name, sign, path = text.partition("=")
    if not sign or not path:
        raise BadInput(f"--weights {text}: give MODEL=PATH")
    short = named(name, "--weights", names)
    if not Path(path).is_file():
        raise BadInput(f"--weights {text}: there is no file {path}")
    return short, path

"""The models that the suite knows by a short name, as data. Importing this imports no torch.

A model is one entry of `MODELS`; any other timm model name works as itself (`entry_for_timm`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.cli import BadInput

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FORMS = ("train", "deploy")


@dataclass(frozen=True)
class Recipe:
    """How released weights are evaluated on ImageNet."""

    resolution: int = 224
    crop_pct: float = 0.875
    crop_mode: str = "center"
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


@dataclass(frozen=True)
class Family:
    """What the sizes of one architecture share.

    `package` is imported before `timm.create_model`. `structure` has, for each form, the builder's keywords that give
    the released structure of that form: the one whose parameters and MACs are counted. A family without
    re-parameterisation has the one form that inference runs, `deploy`.
    """

    name: str
    package: str
    colour: str  # in charts
    marker: str  # in charts: a shape that Vega-Lite has
    structure: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: MappingProxyType({"deploy": {}}), hash=False
    )
    squash_from: int | None = None  # from this resolution on, the image is squashed instead of cropped

    @property
    def forms(self) -> tuple[str, ...]:
        return tuple(self.structure)


@dataclass(frozen=True)
class Entry:
    """One model: its short name, timm's name for it, its evaluation recipe, and where its published figures are."""

    name: str
    family: Family
    timm_name: str
    recipe: Recipe | None = None  # None: timm's own configuration
    aliases: tuple[str, ...] = ()
    published: tuple[str, ...] = ()  # names in published.csv; the first one's weights are `recipe`'s

    def forms(self, asked: str) -> tuple[str, ...]:
        """The forms to measure for `asked` (deploy, train or both): the model's only form if it has but one."""
        if asked == "both" or len(self.family.forms) == 1:
            return self.family.forms
        return (asked,)

    def recipe_at(self, resolution: int | None = None) -> Recipe | None:
        """The recipe at a resolution, by default its own: the whole image is squashed where the family does so."""
        if self.recipe is None:
            return None
        resolution = resolution or self.recipe.resolution
        values = {**vars(self.recipe), "resolution": resolution}
        if self.family.squash_from is not None and resolution >= self.family.squash_from:
            values |= {"crop_pct": 1.0, "crop_mode": "squash"}
        return Recipe(**values)


_REPARAMETERISED = MappingProxyType({"train": {"deploy": False}, "deploy": {"deploy": True}})
OVERLOCK = Family(
    "OverLoCK",
    "overlock",
    "#d55e00",
    "circle",
    MappingProxyType({"train": {"deploy": False, "aux_head": True}, "deploy": {"deploy": True, "aux_head": False}}),
)
UNIREPLKNET = Family("UniRepLKNet", "baselines", "#009e73", "triangle-up", _REPARAMETERISED, squash_from=384)
MOGANET = Family("MogaNet", "baselines", "#b07aa1", "diamond")
CONVNEXT = Family("ConvNeXt", "baselines", "#0072b2", "square", squash_from=384)
TIMM = Family("timm", "timm", "#888888", "cross")
FAMILIES = MappingProxyType({family.name: family for family in (OVERLOCK, CONVNEXT, UNIREPLKNET, MOGANET, TIMM)})
"""Name -> family, in the order in which they are shown."""

SIZE_NAMES = {"xt": "xtiny", "t": "tiny", "s": "small", "b": "base", "l": "large", "xl": "xlarge"}


def _entries() -> Iterable[Entry]:
    for size, crop in {"xt": 0.925, "t": 0.95, "s": 0.95, "b": 0.975}.items():
        name = f"overlock_{size}"
        yield Entry(name, OVERLOCK, name, Recipe(crop_pct=crop), (f"overlock_{SIZE_NAMES[size]}",), (name,))
    for size in ("t", "s", "b", "l"):
        name = f"convnext_{size}"
        yield Entry(name, CONVNEXT, name, Recipe(), (), (name, f"{name}.in22k_ft_in1k"))
    for size in ("a", "f", "p", "n", "t", "s", "b", "l", "xl"):
        name, alias = f"unireplknet_{size}", SIZE_NAMES.get(size)
        pretrained_22k = f"{name}.in22k_ft_in1k"
        if size in ("b", "l", "xl"):  # released for 384 only, after ImageNet-22K
            recipe, published = Recipe(384), (pretrained_22k, name)
        else:
            recipe, published = Recipe(), (name, pretrained_22k)
        yield Entry(name, UNIREPLKNET, name, recipe, (f"unireplknet_{alias}",) if alias else (), published)
    for size in ("xt", "t", "s", "b", "l", "xl"):
        name = f"moganet_{size}"
        yield Entry(name, MOGANET, name, Recipe(crop_pct=0.9), (f"moganet_{SIZE_NAMES[size]}",), (name,))


MODELS: Mapping[str, Entry] = MappingProxyType({entry.name: entry for entry in _entries()})
"""Short name -> entry, by family and size."""

_ALIASES = {alias: entry.name for entry in MODELS.values() for alias in entry.aliases}


def find(name: str) -> Entry | None:
    """The entry of a short name or alias (`OverLoCK-T`, `moganet_small`); None if the suite has none of that name."""
    key = name.lower().replace("-", "_")
    return MODELS.get(_ALIASES.get(key, key))


def entry_for_timm(name: str) -> Entry:
    """The entry of a timm model that has no short name here: one form, timm's own recipe, no published figures."""
    return Entry(name, TIMM, name)


def unknown(name: str, timm_names: Sequence[str] = ()) -> BadInput:
    """The error for a name that is neither ours nor timm's, with the nearest names that are."""
    key = name.lower().replace("-", "_")
    near = difflib.get_close_matches(key, [*MODELS, *_ALIASES], n=3, cutoff=0.6)
    near += difflib.get_close_matches(key, timm_names, n=3, cutoff=0.7)
    hint = f"did you mean {', '.join(dict.fromkeys(near))}?" if near else f"the suite has {', '.join(MODELS)}"
    return BadInput(f"unknown model {name!r}: {hint} (any timm model name works too)")


def chosen(names: Sequence[str]) -> list[Entry]:
    """The entries asked for, each once. A name that may be timm's is left for the process that imports it to judge."""
    entries: dict[str, Entry] = {}
    for name in names:
        for entry in MODELS.values() if name == "all" else (find(name) or entry_for_timm(name),):
            entries.setdefault(entry.name, entry)
    return list(entries.values())


def named(name: str, option: str, names: Sequence[str]) -> str:
    """The short name of one of the models compared."""
    entry = find(name)
    short = entry.name if entry else name
    if short not in names:
        raise BadInput(f"{option} {name}: not among --models {' '.join(names)}")
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

"""All families: the suite's own, and those that other packages register. Importing this imports no torch.

A package names a family in its pyproject.toml, and is known once it is installed:

    [project.entry-points."overlock_bench.models"]
    mynet = "mypackage.bench:MyNet"     # a subclass of bench.families.Family, in a module that imports no torch
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType, NoneType

from bench.families import FAMILIES as OWN
from bench.families import Family

GROUP = "overlock_bench.models"

FACTS = {"name": (str,), "network": (str,), "sizes": (tuple, list), "structure": (Mapping,),
         "figures": (Path, NoneType)}  # fmt: skip
"""What every command reads of a family, and of which types it is."""


def registered() -> Iterator[Family]:
    """The families of other packages; one that cannot be had is left out, with a warning that says why."""
    models = {family.model(size) for family in OWN.values() for size in family.sizes}
    names = set(OWN)
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            family = _loaded(point)
            own = {family.model(size) for size in family.sizes}
            if family.name in names or own & models:
                raise ValueError(f"{family.name} is taken" if family.name in names else f"{min(own & models)} is taken")
        except (Exception, SystemExit) as error:  # whatever another package does
            warnings.warn(
                f"{GROUP}: {point.name} = {point.value}: {type(error).__name__}: {error}: left out", stacklevel=2
            )
            continue
        names.add(family.name)
        models |= own
        yield family


def _loaded(point: EntryPoint) -> Family:
    made = point.load()
    family = made() if isinstance(made, type) else made
    if not isinstance(family, Family):
        raise TypeError(f"{point.value} is no bench.families.Family")
    for name, kinds in FACTS.items():
        if not isinstance(value := getattr(family, name, None), kinds):
            raise TypeError(f"its {name} is {value!r}, no {' or '.join(kind.__name__ for kind in kinds)}")
    if not all(isinstance(size, str) for size in family.sizes) or len(set(family.sizes)) < len(family.sizes):
        raise TypeError(f"its sizes are {family.sizes!r}, no names that differ")
    return family


FAMILIES: Mapping[str, Family] = MappingProxyType({**OWN, **{family.name: family for family in registered()}})
"""Name -> family, in the order in which they are shown."""

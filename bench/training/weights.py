"""How many classes the weights have that a training starts from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.accuracy.networks import RANDOM, RELEASED, RELEASED_CLASSES
from bench.cli import BadInput
from bench.loading import create_on_meta
from bench.models import Entry
from overlock.checkpoints.loading import fitted
from overlock.checkpoints.reading import read_checkpoint

HEADS = ("head.", "aux_head.", "fc.", "classifier.")
"""How the names of a classifier's last layers begin."""


def classes_of(entry: Entry, weights: str, keywords: Mapping[str, Any]) -> int | None:
    """How many classes `random` (None), `released` or a file's weights have, of a model that these keywords build.

    Raises:
        BadInput: if the file cannot be read, or is another model's with any number of classes.
    """
    if weights == RANDOM:
        return None
    if weights == RELEASED:
        return RELEASED_CLASSES
    try:
        state = read_checkpoint(Path(weights))
        sizes = {len(v) for name, v in state.items() if name.startswith(HEADS) and name.endswith("bias") and v.ndim}
        problem: ValueError | None = None
        for classes in sorted({RELEASED_CLASSES, *sizes}, key=lambda size: size != RELEASED_CLASSES):
            try:
                fitted(create_on_meta(entry, num_classes=classes, **keywords), state, weights)
                return classes
            except ValueError as error:
                problem = problem or error
        assert problem is not None
        raise problem
    except (OSError, ValueError) as error:
        raise BadInput(f"--weights {weights}: {error}") from error

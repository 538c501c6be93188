"""The names of tasks and of their heads. Importing this imports no torch."""

from __future__ import annotations

from bench.cli import BadInput

HEADS = {
    "segmentation": ("upernet",),
    "detection": ("maskrcnn", "cascade", "cascade_2fc"),
}
"""Heads of each task, the default first. "cascade" is the 4conv1fc one, which the published cascade figures use."""

COUNTED_AT = {"segmentation": "512x2048", "detection": "800x1280"}
"""Task -> the size, height x width, that published cost is counted at."""
TESTED_AT = {"segmentation": "2048x512", "detection": "1333x800"}
"""Task -> the limits, long x short side, that images are scaled to fit when accuracy is measured."""

BOXES, MASKS = 1000, 100
"""Boxes that the box heads score and masks that the mask heads draw, in each stage, in published figures."""

FIXED_PATH = (
    f"detection: a fixed path, whatever the weights: proposals are computed, then the box heads score {BOXES} boxes "
    f"that are the same for every model and the mask heads draw {MASKS} of them, in each stage; the last suppression "
    "and the drawing of masks on the image are left out."
)

MULTI_SCALE = "multi-scale and flip"
"""The `variant` of a record of mean IoU that was tested at several scales with mirroring."""

WITHOUT_AUXILIARY = "without the auxiliary head"
"""How the `counter` of a second count of parameters ends: of UperNet without the head that only training uses."""

ALL = tuple(head for heads in HEADS.values() for head in heads)


def task_of(head: str) -> str:
    """The task that a head serves.

    Raises:
        ValueError: for an unknown head.
    """
    for task, heads in HEADS.items():
        if head in heads:
            return task
    raise ValueError(f"unknown head {head!r}: give one of {', '.join(ALL)}")


def head_of(task: str, head: str = "") -> str:
    """The head of a dense task, its default where none is asked for.

    Raises:
        BadInput: for a head that the task does not have.
    """
    heads = HEADS.get(task, ())
    if not heads:
        if head:
            raise BadInput(f"--head {head}: give --task {task_of(head) if head in ALL else 'detection'} with it")
        return ""
    if head and head not in heads:
        raise BadInput(f"--head {head}: --task {task} has {', '.join(heads)}")
    return head or heads[0]


def variant_of(task: str) -> str:
    """The `variant` of a record of cost or speed: a detector is counted and timed on its fixed path."""
    return f"fixed path ({BOXES} boxes and {MASKS} masks a stage)" if task == "detection" else ""

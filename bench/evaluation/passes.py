"""One pass over a set of images: shared between torchrun's processes, read ahead, each result kept at once."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from bench.cli import BadInput
from bench.evaluation.store import Store, images_of
from bench.torchrun import Workers

T = TypeVar("T")
B = TypeVar("B", bound="Read")
SIGNAL = 10.0
"""Seconds to wait for the signal of a death, at most."""

Missing = dict[int, list[int]]
"""Number of a batch -> the stores, by index, that lack its result."""


class Read(Protocol):
    """A batch as it was read: its number, and why images of it cannot be used, by the image's index."""

    number: int
    unreadable: dict[int, str]


def run(
    stores: Sequence[Store[T]],
    images: int,
    batch: int,
    read: Callable[[Missing], Iterator[B]],
    start: Callable[[B, list[int]], Sequence[Callable[[], T]]],
    workers: Workers,
) -> tuple[list[dict[int, T]], dict[int, str]]:
    """Compute and keep what the stores lack; returns each one's results by batch, and why images cannot be used.

    Every process returns the results of all. A reason is known only for images that were met in this call.

    Args:
        stores: one for each model; `Store.results` is what is known already.
        images, batch: how many images there are, and how many a batch.
        read: gives this process's batches of those that are missing, in the order of their numbers.
        start: starts the models whose stores lack a batch; returns, for each, what waits for its result (nothing for a
            batch that has none). The next batch is started before these are called, so that a GPU need not wait for
            what is done with its outputs.
        workers: torchrun's processes.

    Raises:
        BadInput: if results cannot be written, or a process that reads images dies; what was kept stays.
    """
    missing = _missing(stores, -(-images // batch), workers)
    mine = {number: missing[number] for number in workers.share(sorted(missing))}
    waiting: list[tuple[Store[T], int, Callable[[], T]]] = []
    unreadable: dict[int, str] = {}

    def keep() -> None:
        for store, number, result in waiting:
            store.add(number, result())

    done = max(0, images - len(missing) * batch)
    quiet = workers.rank > 0 or not sys.stderr.isatty()
    with tqdm(total=images, initial=done, unit="image", file=sys.stderr, disable=quiet) as bar, _deaths():
        for sample in read(mine):
            unreadable |= sample.unreadable
            lacking = mine[sample.number]
            results = start(sample, lacking)
            started = [(stores[s], sample.number, result) for s, result in zip(lacking, results, strict=False)]
            keep()
            waiting = started
            bar.update(len(images_of(sample.number, batch, images)) * workers.size)
        keep()
    return [_merged(workers.gather(store.results)) for store in stores], _merged(workers.gather(unreadable))


def _missing(stores: Sequence[Store[Any]], batches: int, workers: Workers) -> Missing:
    """What no process has a result of; the same in every process."""
    done = [set().union(*workers.gather(set(store.results))) for store in stores]
    lacking = {number: [s for s, known in enumerate(done) if number not in known] for number in range(batches)}
    return {number: which for number, which in lacking.items() if which}


def _merged(parts: Sequence[Mapping[int, Any]]) -> dict[int, Any]:
    merged: dict[int, Any] = {}
    for part in parts:
        merged |= part
    return merged


@contextmanager
def _deaths() -> Iterator[None]:
    """Within it, the death of a process that reads images is bad input.

    The loader raises it from the handler of a signal: wherever this process is at that moment. If it is just receiving
    an image, the connection breaks first.
    """
    try:
        try:
            yield
        except (ConnectionError, EOFError):
            time.sleep(SIGNAL)
            raise
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise BadInput(
            f"a process that reads images died ({str(error).splitlines()[0]}): what was kept stays: run again, "
            "with fewer --workers if memory is short"
        ) from error


def loaded(data: Dataset[B], numbers: Sequence[int], processes: int, pin_memory: bool = False) -> Iterator[B]:
    """`data[number]` for each number, in their order, read by `processes` processes beside this one (0: by this one).

    Raises:
        RuntimeError: if one of these processes dies.
    """
    if not numbers:
        return
    yield from DataLoader(
        data,
        batch_size=None,
        sampler=numbers,
        num_workers=processes,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
    )


def _as_it_is(sample: B) -> B:
    return sample

"""The metrics of the suite, as data: an entry of `METRICS` each. Importing this imports no torch and no pandas.

A metric is added here, and by the code that measures it; tables, charts, statements, comparisons and documents read
what they need from its entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

COUNTED = ("task", "head", "variant", "model", "form", "resolution")
"""What a count depends on; its convention (`Record.counter`) beside."""
ACCURACY = (*COUNTED, "dtype", "dataset")
"""What an accuracy depends on, whatever machine it was measured on."""
ONE_SIZE = (*COUNTED, "machine", "device", "dtype", "layout", "compile", "threads", "backend")
"""What a measured figure depends on whose batch is fixed (latency) or is the figure itself (the largest batch)."""
BATCHED = (*ONE_SIZE, "batch")
"""What every other measured figure depends on."""

COST, THROUGHPUT, LATENCY, TRAINING, MEMORY, LARGEST_BATCH = (
    "cost", "throughput", "latency", "training", "memory", "largest_batch",
)  # fmt: skip
BREAKDOWN, ACCURACY_RUN, CALIBRATION, PARITY = "breakdown", "accuracy", "calibration", "parity"
"""Kinds of measurement. Each of the first six and `BREAKDOWN` gets processes of its own in `bench.compare`."""

INTERVAL = (
    "median of fresh processes, interleaved with those compared; lo and hi: 95 % interval between order statistics"
)
TAIL = "th percentile of all processes' single calls; lo and hi: range of the processes' own"
RATIO_METHOD = (
    "geometric mean of rounds, in which both sides' blocks take turns; lo and hi: Student's 95 % interval on logarithms"
)

HIGH, LOW = "high", "low"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric. A value in a record's unit, divided by `divisor`, is in the unit shown."""

    name: str
    unit: str  # of records
    kind: str  # of the measurement that gives it
    depends_on: tuple[str, ...]  # the fields of a record that must be equal for two figures to be comparable
    heading: str = ""  # of its column, without the unit; empty: not in tables
    shown_unit: str = ""
    divisor: float = 1.0
    digits: int = 2  # after the point
    better: str = ""  # HIGH, LOW, or neither
    asked: bool = False  # whether `bench.compare --metrics` takes its name; others come along with one that it takes
    spread: bool = False  # whether its interval is shown beside it
    ratio: str = ""  # to a baseline: "paired" in rounds, a "quotient" of two records, or none
    published: tuple[str, ...] = ()  # its names in results/published.csv
    published_as: str = ""  # what papers call it
    method: str = ""  # how it is measured, where that is the same everywhere
    missing: str = ""  # why it may have no value although everything ran
    meaning: str = ""  # a line below tables

    @property
    def title(self) -> str:
        """The heading with the unit that is shown."""
        return f"{self.heading} {self.shown_unit}".rstrip()

    @property
    def cost(self) -> bool:
        """Whether it is counted: the same on every machine and with any weights."""
        return self.depends_on == COUNTED

    @property
    def accuracy(self) -> bool:
        """Whether only trained weights and a data set give it."""
        return self.depends_on == ACCURACY

    @property
    def timed(self) -> bool:
        """Whether its value belongs to a machine and its conditions."""
        return "machine" in self.depends_on


PAIRED, QUOTIENT = "paired", "quotient"


def _counted() -> Iterable[Metric]:
    common = Metric(name="", unit="MACs", kind=COST, depends_on=COUNTED, shown_unit="G", divisor=1e9, better=LOW)
    params = replace(common, name="params", unit="count", shown_unit="M", divisor=1e6)
    yield replace(
        params, heading="parameters", asked=True, ratio=QUOTIENT, published=("params",), published_as="parameters"
    )
    yield replace(params, name="params_with_aux")
    yield replace(params, name="params_without_aux")
    yield replace(
        common, name="macs", heading="MACs", asked=True, ratio=QUOTIENT, published=("flops",), published_as="FLOPs",
        meaning="MACs: multiply-adds of convolutions, linear layers, matrix products and ContMix, for one image.",
    )  # fmt: skip
    for part, heading in (
        ("backbone", "backbone MACs"),
        ("head", "head MACs"),
        ("neck_rpn", "neck+RPN MACs"),
        ("roi_heads", "RoI heads MACs"),
    ):
        yield replace(common, name=f"macs_{part}", heading=heading)
    yield replace(params, name="activations", heading="activations", asked=True, ratio=QUOTIENT)


def _timed() -> Iterable[Metric]:
    common = Metric(
        name="", unit="s", kind=THROUGHPUT, depends_on=BATCHED, shown_unit="ms", divisor=1e-3, digits=1, better=LOW
    )
    speed = replace(
        common, unit="images/s", shown_unit="images/s", divisor=1, better=HIGH, asked=True, spread=True, ratio=PAIRED
    )
    yield replace(
        speed, name="throughput", heading="throughput",
        method=f"{INTERVAL}; each process: median of blocks of back-to-back calls",
        meaning="throughput: median of fresh processes, ± half the 95 % interval.",
    )  # fmt: skip
    latency = replace(common, kind=LATENCY, depends_on=ONE_SIZE)
    yield replace(
        latency, name="latency", heading="latency", asked=True, spread=True, ratio=PAIRED,
        method=f"{INTERVAL}; each process: median of single calls, each waited for",
        meaning="latency: one image, each call waited for; median, then 90th and 99th percentile.",
    )  # fmt: skip
    for percent in (90, 99):
        yield replace(latency, name=f"latency_p{percent}", heading=f"latency p{percent}", method=f"{percent}{TAIL}")
    yield replace(
        speed, name="training", heading="training", kind=TRAINING, digits=2,
        method=f"{INTERVAL}; each process: median of blocks of steps (forward, loss, backward, fused AdamW)",
        meaning="training: forward, loss with the auxiliary head, backward, AdamW.",
    )  # fmt: skip
    yield replace(
        common, name="cold_start", heading="first call", digits=0, asked=True, spread=True,
        method=f"{INTERVAL}; the first call of a process, model loaded",
        missing="no process's first call was the cold one: give two rounds or more",
        meaning="first call: of a process, the model loaded.",
    )  # fmt: skip
    yield replace(
        common, name="compile_time", heading="compilation", shown_unit="s", divisor=1, asked=True, spread=True,
        method=f"{INTERVAL}; the first call of a compiled model less a steady one",
        missing="nothing was compiled: give --compile",
    )  # fmt: skip


def _memory_and_energy() -> Iterable[Metric]:
    memory = Metric(
        name="memory", unit="bytes", kind=MEMORY, depends_on=BATCHED, shown_unit="MiB", divisor=2**20, digits=1,
        better=LOW,
    )  # fmt: skip
    yield replace(
        memory, heading="memory", asked=True, ratio=QUOTIENT, meaning="memory: peak of a call above the loaded model."
    )
    for what in ("weights", "reserved", "device"):
        yield replace(memory, name=f"memory_{what}")
    yield Metric(
        name="largest_batch", unit="images", kind=LARGEST_BATCH, depends_on=ONE_SIZE, heading="largest batch",
        digits=0, better=HIGH, asked=True, ratio=QUOTIENT,
        meaning="largest batch: whose call fits the memory that is free, or the budget given.",
    )  # fmt: skip
    yield Metric(
        name="energy", unit="J/image", kind=THROUGHPUT, depends_on=BATCHED, heading="energy", shown_unit="J/image",
        digits=3, better=LOW, asked=True, spread=True,
        method=f"{INTERVAL}; NVML's energy counter over a block, idle power included",
        missing="this device has no energy counter that NVML (nvidia-ml-py) can read",
        meaning="energy: NVML's counter, idle power included.",
    )  # fmt: skip
    yield replace(memory, name="bytes_moved", kind=BREAKDOWN, method="inputs and outputs of each operator")


def _accuracies() -> Iterable[Metric]:
    common = Metric(name="", unit="%", kind=ACCURACY_RUN, depends_on=ACCURACY, shown_unit="%", better=HIGH)
    yield replace(
        common, name="top1", heading="top-1", published=("top1",), published_as="ImageNet-1K top-1"
    )  # measured; published figures stand in a column of their own even where nothing was evaluated
    yield replace(common, name="top5", heading="top-5")
    yield replace(common, name="top1_real", heading="ReaL top-1")
    yield replace(common, name="miou", heading="mIoU", published=("mIoU", "mIoU_MS"), published_as="mIoU")
    yield replace(common, name="macc")
    yield replace(common, name="aacc")
    for what in ("box", "mask"):
        name = f"{what} AP"
        yield replace(common, name=name, heading=name, published=(f"AP_{what[0]}",), published_as=name)
        for at in ("50", "75", "_small", "_medium", "_large"):
            yield replace(common, name=f"{name}{at}")
        for at in ("1", "10", "100", "_small", "_medium", "_large"):
            yield replace(common, name=f"{what} AR{at}")


def _parts() -> Iterable[Metric]:
    """Of breakdowns: their records are named `breakdown/<by>/<what>/<part>`, with by operator or stage."""
    for what, heading, unit, shown, divisor in (
        ("time", "time", "s", "ms", 1e-3),
        ("macs", "MACs", "MACs", "M", 1e6),
        ("params", "parameters", "count", "k", 1e3),
        ("activations", "activations", "count", "k", 1e3),
    ):
        yield Metric(
            name=f"{BREAKDOWN}/{what}", unit=unit, kind=BREAKDOWN, depends_on=BATCHED, heading=heading,
            shown_unit=shown, divisor=divisor,
        )  # fmt: skip


def _of_the_machine() -> Iterable[Metric]:
    common = Metric(name="", unit="fraction", kind=CALIBRATION, depends_on=BATCHED)
    for name in ("aa_spread", "smallest_visible", "canary_spread"):
        yield replace(common, name=name)
    yield replace(common, name="peak_macs", unit="MACs/s")
    yield replace(common, name="copy_bandwidth", unit="bytes/s")
    yield replace(common, name="operator_time", unit="s")
    yield replace(common, name="operator_time_eager", unit="s")
    yield replace(common, name="over_floor", unit="ratio")
    parity = (*COUNTED, "device", "dtype", "batch")
    yield replace(common, name="deploy_difference", unit="relative", kind=PARITY, depends_on=parity, better=LOW)


def _with_ratios(metrics: Iterable[Metric]) -> Iterable[Metric]:
    """The metrics, and after each one that has a paired ratio that ratio, above 1 where the side is faster."""
    for metric in metrics:
        yield metric
        if metric.ratio == PAIRED:
            yield replace(
                metric, name=f"{metric.name}_ratio", unit="ratio", heading=f"{metric.heading} ratio", shown_unit="x",
                divisor=1, digits=2, better=HIGH, asked=False, spread=False, ratio="", method=RATIO_METHOD, meaning="",
            )  # fmt: skip


METRICS: Mapping[str, Metric] = MappingProxyType({
    metric.name: metric
    for group in (_counted, _timed, _memory_and_energy, _accuracies, _parts, _of_the_machine)
    for metric in _with_ratios(group())
})  # fmt: skip
"""Every metric by its name, in the order of tables."""

ASKED = tuple(name for name, metric in METRICS.items() if metric.asked)
"""What `bench.compare --metrics` takes."""
DEFAULT = ("params", "macs", "throughput", "memory")


def find(name: str) -> Metric | None:
    """The metric of a record's `metric`; a part's of a breakdown is that of what is broken down."""
    if name.startswith(f"{BREAKDOWN}/"):
        _, _, what, _ = name.split("/", 3)
        name = f"{BREAKDOWN}/{what}"
    return METRICS.get(name)


def of_kind(kind: str) -> tuple[str, ...]:
    """The metrics that one measurement of a kind gives, without ratios; the first is the one that ratios are of."""
    return tuple(name for name, metric in METRICS.items() if metric.kind == kind and metric.unit != "ratio")

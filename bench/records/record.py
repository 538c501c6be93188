"""The record: one measured figure with everything needed to repeat it, compare it, or distrust it.

Records are long: one row for each metric. They are written as JSON beside the environment that they were measured in,
or kept as CSV (`bench.records.store`). Importing this imports no torch and no pandas.
"""

from __future__ import annotations

import datetime
import json
import math
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

VERSION = 3
"""Version of the fields below; raised when one changes its meaning. Version 2 added `against`, `samples`, `run` and
`counter`, version 3 `head`, `variant`, `noise` and `moved`. `from_dict` brings an older record up to date."""

OUT_OF_MEMORY = "OOM"
"""How the first reason of a record begins when the measurement ran out of memory."""

NO_FIGURE: Mapping[str, Any] = {"value": None, "lo": None, "hi": None, "n": None, "valid": False}
"""What a record without a figure has in the place of one."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One figure. `value` is None where it could not be measured; `reasons` then says why.

    `lo` and `hi` bound `value` and `n` counts what it is drawn from, as `method` says. Conditions that do not bear on
    a metric are None or empty (MACs know no device or dtype).
    """

    model: str
    form: str  # train or deploy
    metric: str
    value: float | None
    unit: str
    resolution: str  # 224, or 256x320 as height x width
    task: str = "classification"
    head: str = ""  # of a dense task: maskrcnn, say
    variant: str = ""  # how a figure was taken where there is another way: "multi-scale and flip", "fixed path (...)"
    lo: float | None = None
    hi: float | None = None
    n: int | None = None
    method: str = ""  # how it was counted or timed
    counter: str = ""  # the counter and convention that a cost figure follows
    against: str = ""  # of a ratio: "<model> <form>" that it refers to; empty for any other figure
    samples: tuple[float, ...] = ()  # one value for each process or round, in order; `value` is drawn from them
    noise: float | None = None  # how far the canary moved at most, if that is further than this machine's limit
    moved: tuple[float, ...] = ()  # how far the canary moved beside each sample
    run: str = ""  # the run that measured this: only rows of one run were interleaved with one another
    batch: int | None = None
    dtype: str = ""  # that weights and inputs are cast to; tf32 is float32 that may round to TF32
    layout: str = ""
    compile: str = ""  # none, a mode of torch.compile, cudagraph, or another runtime than PyTorch
    backend: str = ""  # the implementation of ContMix that ran; empty for models without it
    threads: int | None = None
    device: str = ""
    machine: str = ""  # key of the environment
    python: str = ""
    torch: str = ""
    timm: str = ""
    driver: str = ""
    weights: str = ""  # SHA-256 of the file, or random:<seed>
    dataset: str = ""
    commit: str = ""
    dirty: bool | None = None
    valid: bool = True
    reasons: tuple[str, ...] = ()  # why it is not valid, or has no value
    notes: tuple[str, ...] = ()  # what a reader should know of a valid figure
    time: str = ""  # UTC, ISO 8601
    version: int = VERSION

    def __post_init__(self) -> None:
        """Check the fields. A figure that is not finite is no figure: nothing may show it, judge it, or find it equal.

        Raises:
            ValueError: for a field that is not of its type, or that no measurement can give; it names the field.
        """
        for name, kind in TYPES.items():
            if not _FITS[kind](getattr(self, name)):
                raise _refusal(name, getattr(self, name))
        for name, least in _LEAST.items():
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else (() if value is None else (value,))
            if not all(math.isfinite(number) and number >= least for number in numbers):
                raise _refusal(name, value)
        bounds = [bound for bound in (self.lo, self.hi) if bound is not None]
        drawn = [] if self.value is None else [self.value, *self.samples]
        if not all(map(math.isfinite, drawn)) or any(map(math.isnan, bounds)):
            reason = f"not finite: {', '.join(map(str, [*drawn[:1], *bounds]))}"
            for name, value in {**NO_FIGURE, "samples": (), "reasons": (*self.reasons, reason)}.items():
                object.__setattr__(self, name, value)
            return
        if min(drawn, default=0) < 0:  # no metric of the suite
            raise ValueError(f"not a record: {self.metric} is {min(drawn)} {self.unit}")
        # one bound may be open: infinite, to its own side
        if self.lo == math.inf or self.hi == -math.inf or (len(bounds) == 2 and bounds[0] > bounds[1]):
            raise ValueError(f"not a record: lo and hi are {self.lo} and {self.hi}")
        if self.unit == "ratio" and any(figure is not None and figure <= 0 for figure in (self.value, *self.samples)):
            raise ValueError("not a record: a ratio that is not above 0")

    @property
    def out_of_memory(self) -> bool:
        return bool(self.reasons) and self.reasons[0].startswith(OUT_OF_MEMORY)

    @property
    def measured(self) -> bool:
        """Whether it says something of the model: a value, or that memory did not suffice."""
        return self.value is not None or self.out_of_memory

    @property
    def of_other_set(self) -> bool:
        """Whether an accuracy is of other images than published figures are: ImageNet-1K's, COCO's or ADE20K's.

        The latter two go by their hash alone, others have a name before it.
        """
        name, sign, _ = self.dataset.partition(":")
        return bool(sign) and name != "imagenet"

    def failed(self, *reasons: str) -> Record:
        """This record without a value, for these reasons."""
        return replace(self, **NO_FIGURE, reasons=reasons)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def stamped(record: Record, environment: Mapping[str, Any], run: str) -> Record:
    """The record with the machine, libraries, commit and time of its environment, and its run.

    What the record itself says stays.
    """
    libraries = environment.get("libraries", {})
    stamp: dict[str, Any] = {
        **{name: environment.get(name, "") for name in ("machine", "python", "driver", "commit", "time")},
        **{name: libraries.get(name, "") for name in ("torch", "timm")},
        "dirty": environment.get("dirty"),
        "run": run,
    }
    return replace(record, **{name: value for name, value in stamp.items() if getattr(record, name) in ("", None)})


TYPES: Mapping[str, str] = {field.name: str(field.type) for field in fields(Record)}
"""A record's fields in the order of a file's columns, with their types as they are written above."""


def new_run() -> str:
    """An identifier for a run: its time in UTC, so that runs sort, and some random digits, so that no two are equal."""
    return f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def from_dict(values: Mapping[str, Any]) -> Record:
    """A record read back, brought up to date; fields of a later version that are unknown here are left out.

    Raises:
        ValueError: if a field without a default is missing, or one is not of its type; it names the field.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"not a record: {values!r:.60}")
    known = {name: values[name] for name in TYPES if name in values}
    for name, value in known.items():
        if TYPES[name].startswith("tuple") and isinstance(value, list | None):
            known[name] = tuple(value or ())
    try:
        record = Record(**known)
    except TypeError as error:
        raise ValueError(f"not a record: {error}") from error
    for name, pattern in _PATTERNS.items():
        if not re.fullmatch(pattern, getattr(record, name)):
            raise _refusal(name, getattr(record, name))
    return _up_to_date(record)


def _refusal(name: str, value: Any) -> ValueError:
    return ValueError(f"not a record: {name} is {value!r:.60}")


def _number(value: Any) -> bool:
    return isinstance(value, float) or (_whole(value) and value.bit_length() < 1000)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_FITS: Mapping[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "float | None": lambda value: value is None or _number(value),
    "int | None": lambda value: value is None or _whole(value),
    "int": _whole,
    "bool | None": lambda value: value is None or isinstance(value, bool),
    "bool": lambda value: isinstance(value, bool),
    "tuple[str, ...]": lambda value: isinstance(value, tuple) and all(isinstance(item, str) for item in value),
    "tuple[float, ...]": lambda value: isinstance(value, tuple) and all(map(_number, value)),
}
"""Whether a value fits a field, by the field's type."""

_LEAST: Mapping[str, int] = {"n": 0, "batch": 1, "threads": 1, "version": 1, "noise": 0, "moved": 0}
"""The least value of conditions that are numbers."""

_PATTERNS = {
    "model": r"(?s:.+)",
    "form": r"(train|deploy|copy|matrix product|forward|backward|forward and backward)?",  # of a model, or an operator
    "metric": r"(?!breakdown/)(?s:.+)|breakdown(/[^/]+){2}/(?s:.+)",
    "resolution": r"(\d{1,6}(x\d{1,6})?|none)?",
    "machine": r"([\w+-][\w.+-]{0,199})?",
    "time": r"(\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?)?)?",
}
"""What a file must hold in fields that others take apart, sort by, or name folders with."""

_HEAD_IN_METHOD = re.compile(r"(\w+)(?: on a (fixed path \([^)]*\)))?(?:; |, |$)")
"""How `method` began in version 2, where the task had heads: `maskrcnn on a fixed path (...); timed so and so`."""


def _up_to_date(record: Record) -> Record:
    """A record of an older version as it would be written today."""
    if record.version < 2 and not record.device:  # what is counted had the counter in `method`
        record = replace(record, counter=record.counter or record.method)
    old = record.version < 3 and record.task != "classification"
    if old and (match := _HEAD_IN_METHOD.match(record.method)):  # a record without a value could lack it
        how = record.method[match.end() :]
        if how in ("single scale", "multi-scale and flip"):  # of an accuracy
            record = replace(record, head=match[1], variant="" if how == "single scale" else how, method="")
        else:
            record = replace(record, head=match[1], variant=match[2] or "", method=how)
    return replace(record, version=max(record.version, VERSION))


def to_json(environment: Mapping[str, Any], records: Iterable[Record]) -> str:
    """`{"environment": {...}, "records": [...]}`, one record on each line."""
    lines = ",\n".join("    " + json.dumps(record.to_dict()) for record in records)
    environment_text = json.dumps(dict(environment), indent=2).replace("\n", "\n  ")
    return f'{{\n  "environment": {environment_text},\n  "records": [\n{lines}\n  ]\n}}'


def from_json(text: str) -> tuple[dict[str, Any], list[Record]]:
    """Environment and records of `to_json`'s text.

    Raises:
        ValueError: if the text is not such a file.
    """
    try:
        data = json.loads(text)
    except RecursionError as error:
        raise ValueError("not a file of records: nested too deeply") from error
    environment = data.get("environment") or {} if isinstance(data, dict) else None
    if not isinstance(environment, dict) or not isinstance(data.get("records"), list):
        raise ValueError('not a file of records: it should be {"environment": {...}, "records": [...]}')
    return environment, [from_dict(values) for values in data["records"]]

"""Breakdowns: each operator in its kind and stage, and sums that are the whole."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import compare
from bench.cli import BadInput
from bench.cost.count import count_macs
from bench.engine.subject import Subject, place
from bench.loading import load, resolve
from bench.profile import operators as ops
from bench.profile.breakdown import BYTES, figures, render
from bench.profile.operators import Operator, operators
from bench.records.record import Record, from_json

TEMPLATE = Record(model="m", form="deploy", metric="", value=None, unit="", resolution="8", batch=2)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.stages = nn.ModuleList([nn.Conv2d(4, 4, 5, padding=2, groups=4), nn.Conv2d(4, 6, 1, bias=False)])
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        x = F.gelu(self.norm(x))
        tokens = x.flatten(2)  # (B, 6, 64)
        return self.head((tokens @ tokens.transpose(1, 2)).mean(1))


@pytest.fixture(scope="module")
def found() -> list[Operator]:
    torch.manual_seed(0)
    images = [torch.randn(2, 3, 8, 8) for _ in range(2)]
    return operators(Subject(Small().eval(), images, torch.device("cpu"), "channels_first"), 3)


BY_HAND = {
    # kind: multiply-adds of two images, parameters, activations
    ops.CONVOLUTION: (2 * 64 * 4 * 3 * 9, 4 * 3 * 9 + 4, 2 * 4 * 64),
    ops.DEPTHWISE: (2 * 64 * 4 * 25, 4 * 25 + 4, 2 * 4 * 64),
    ops.POINTWISE: (2 * 64 * 6 * 4 + 2 * 6 * 10, 24 + 70, 2 * 6 * 64 + 2 * 10),
    ops.PRODUCT: (2 * 6 * 6 * 64, 0, 2 * 36),
    ops.NORM: (0, 12, 0),
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_amounts_by_hand(found: list[Operator], kind: str) -> None:
    mine = [op for op in found if op.kind == kind]
    assert (sum(op.macs for op in mine), sum(op.params for op in mine), sum(op.activations for op in mine)) == BY_HAND[
        kind
    ]


def test_every_call_was_timed(found: list[Operator]) -> None:
    assert all(len(op.seconds) == 3 and min(op.seconds) >= 0 for op in found)


def test_stages_are_where_modules_are(found: list[Operator]) -> None:
    stages = {op.stage for op in found if op.macs}
    assert stages == {"stem", "stages.0", "stages.1", "head", ops.BETWEEN}
    assert {op.stage for op in found if op.kind == ops.NORM} == {"norm"}


def test_bytes_are_inputs_and_outputs(found: list[Operator]) -> None:
    (stem,) = [op for op in found if op.stage == "stem" and op.macs]
    assert stem.bytes == 4 * (2 * 3 * 64 + 4 * 27 + 4 + 2 * 4 * 64)
    views = [op for op in found if "transpose" in op.name or "view" in op.name]
    assert views
    assert all(op.bytes == 0 for op in views)


def test_records_are_per_image_and_their_parts_sum_to_the_whole(found: list[Operator]) -> None:
    made = [replace(TEMPLATE, **figure) for figure in figures(found, 2)]
    sums: Counter[str] = Counter()
    for record in made:
        if record.metric != BYTES:
            _, by, of, _ = record.metric.split("/")
            assert record.value is not None
            sums[by, of] += record.value
    for of, scale in (("macs", 2), ("params", 1), ("activations", 2)):
        whole = sum(getattr(op, of) for op in found) / scale
        assert sums["operator", of] == sums["stage", of] == whole
    assert sums["stage", "time"] == pytest.approx(sum(op.median for op in found) / 2)
    assert sums["stage", "params"] == sum(p.numel() for p in Small().parameters())


def test_a_network_that_changes_its_mind_is_refused() -> None:
    class Moody(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x + 1 if self.calls % 2 else x * 2 + 1

    images = [torch.randn(1, 3, 8, 8)] * 2
    with pytest.raises(ValueError, match="different operators"):
        operators(Subject(Moody(), images, torch.device("cpu"), "channels_first"), 2)


def test_a_convolution_of_one_channel_is_not_depthwise() -> None:
    images = [torch.randn(1, 1, 8, 8)] * 2
    (op,) = operators(Subject(nn.Conv2d(1, 4, 3), images, torch.device("cpu"), "channels_first"), 1)
    assert (op.kind, op.macs) == (ops.CONVOLUTION, 36 * 4 * 9)


def test_a_transposed_convolution() -> None:
    images = [torch.randn(1, 6, 5, 5)] * 2
    model = nn.ConvTranspose2d(6, 4, 2, stride=2)
    (op,) = operators(Subject(model, images, torch.device("cpu"), "channels_first"), 1)
    assert op.macs == 25 * 6 * 4 * 4


def test_weights_of_the_folded_form_are_where_they_are_used() -> None:
    """Also those that an operator first pads or converts; memory that is used again is not taken for a weight."""
    model = load(resolve("overlock_xt"), "deploy", None, 0)
    found = operators(place(model, "cpu", "float32", "channels_last", 1, (224, 224), 0), 1)
    norms = [m for m in model.modules() if re.search("Norm|GRN", type(m).__name__)]
    held = sum(t.numel() for m in norms for t in (*m.parameters(recurse=False), *m.buffers(recurse=False)))
    assert 0 < sum(op.params for op in found if op.kind == ops.NORM) <= held
    assert sum(op.params for op in found) <= sum(t.numel() for t in (*model.parameters(), *model.buffers()))


SMALLEST = ["overlock_xt", "convnext_t", "unireplknet_a", "moganet_xt"]


@pytest.mark.parametrize("name", SMALLEST)
def test_macs_and_parameters_are_those_counted(name: str) -> None:
    """In the form as trained the breakdown counts what fvcore counts, to the last multiply-add, and every parameter."""
    model = load(resolve(name), "train", None, 0)
    subject = place(model, "cpu", "float32", "channels_first", 1, (224, 224), 0)
    found = operators(subject, 1)
    assert sum(op.params for op in found) == sum(p.numel() for p in model.parameters()) - _unused(model)
    assert sum(op.macs for op in found) == count_macs(model.to("meta"), (224, 224)).macs
    kinds = {op.kind for op in found}
    assert {ops.DEPTHWISE, ops.POINTWISE, ops.NORM, ops.OTHER} <= kinds
    assert (ops.CONTMIX in kinds) == name.startswith("overlock")


def _unused(model: nn.Module) -> int:
    """Parameters that inference does not touch: OverLoCK's auxiliary head."""
    head = getattr(model, "aux_head", None)
    return sum(p.numel() for p in head.parameters()) if head is not None else 0


@pytest.mark.parametrize("style", ["table", "markdown", "latex"])
def test_tables_show_parts_and_the_whole(found: list[Operator], style: str) -> None:
    text = render([replace(TEMPLATE, **figure) for figure in figures(found, 2)], style)
    for part in (*BY_HAND, "stages.0", "all", "100.0"):
        assert part in text


def test_the_option_writes_records_and_resumes(tmp_path: Path) -> None:
    output, kept = tmp_path / "breakdown.json", tmp_path / "kept.csv"
    conditions = ["--resolutions", "64", "--batch-size", "1", "--threads", "1", "--output", str(output)]
    arguments = ["--models", "moganet_xt", "--breakdown", *conditions, "--resume", str(kept)]
    assert compare.main(arguments) == 0
    measured = kept.read_text()
    assert compare.main(arguments) == 0
    assert kept.read_text() == measured, "what is known is not measured again"
    found = from_json(output.read_text())[1]
    assert {"breakdown/operator/time/depthwise", "breakdown/stage/macs/blocks1", BYTES} <= {r.metric for r in found}
    assert {(r.model, r.batch, r.dtype, r.weights) for r in found} == {("moganet_xt", 1, "float32", "random:0")}
    assert all(r.machine and r.run and r.time and r.torch for r in found)
    assert "by stage" in render(found, "table")


def test_an_unknown_model_is_one_line() -> None:
    with pytest.raises(BadInput, match="unknown model"):
        compare.main(["--models", "convnext_tt", "--breakdown"])

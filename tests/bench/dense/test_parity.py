"""Every head against the released code's values, in float64, and the faults that must be seen there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.golden_tools import golden, manifest, relative_error

pytest.importorskip("torchvision")

import bench.dense.anchors
import bench.dense.roi
from bench.dense.boxes import select_detections
from bench.dense.cascade import CascadeHead
from bench.dense.detection import DetectionModel
from bench.dense.mask_rcnn import MaskRCNNHead
from bench.dense.paste import paste_mask
from bench.dense.roi import roi_features
from bench.dense.segmentation import SegmentationModel
from tests.bench.dense.heads import PADDED, ROIS, SIZE, Maps, reference_model

TOLERANCE = 1e-9  # float64, relative to an array's largest value
DETECTORS = ("head_maskrcnn", "head_cascade_4conv1fc")
# fmt: off
SHOWN = [
    *range(50),
    57, 67, 81, 87, 107, 134, 151, 176, 203, 206, 219, 224, 231, 237, 238, 240, 264, 291, 301, 305, 309, 315, 318,
    328, 335, 357, 384, 411, 412, 414, 430, 434, 435, 437, 449, 457, 458, 463, 464, 490, 500, 507, 512, 519, 522,
    526, 532, 535, 536, 540, 541, 545, 555, 558, 587, 593, 612, 620, 638, 661, 666, 667, 671, 677, 687, 696, 704,
    708, 710, 715, 716, 767, 792, 824, 827, 845, 846, 852, 868, 873, 876, 886, 891, 910, 940, 944, 950, 953, 957,
    973, 976, 984,
]
# fmt: on
"""Proposals of the cascade that become its 100 detections, and the first 50. They give the detections of all 1000,
which take half a minute: a box is scored alone, and what non-maximum suppression keeps, it keeps without the others
too."""


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    return {name: reference_model(name) for name in ("head_upernet", *DETECTORS)}


def proposals_of(model: nn.Module) -> Tensor:
    pyramid = model.neck(model.backbone.maps)
    boxes, scores = model.rpn_head.propose(model.rpn_head(pyramid), 0, SIZE.resized)
    return torch.cat([boxes, scores[:, None]], dim=1)


@dataclass
class Run:
    """Detections (N, 6): box, score, class; pixels (N,) of the pasted masks; each stage's logits; final boxes."""

    detections: Tensor
    pixels: Tensor
    logits: list[Tensor]
    boxes: Tensor


def run(model: nn.Module, rows: list[int] | None = None) -> Run:
    """The whole model on one image; of these proposals alone, if they are given."""
    logits: list[Tensor] = []
    boxes: list[Tensor] = []
    hooks = [h.register_forward_hook(lambda _, __, out: logits.append(out[0])) for h in model.roi_head.box_heads]
    score_boxes = model.roi_head.score_boxes

    def kept(maps: object, proposals: Tensor, size: object) -> tuple[Tensor, Tensor]:
        decoded, scores = score_boxes(maps, proposals if rows is None else proposals[rows], size)
        boxes.append(decoded)
        return decoded, scores

    model.roi_head.score_boxes = kept
    with torch.inference_mode():
        seen = model(torch.zeros(1, 3, *PADDED, dtype=torch.float64), [SIZE])[0]
    del model.roi_head.score_boxes
    for hook in hooks:
        hook.remove()
    table = torch.cat([seen.boxes, seen.scores[:, None], seen.labels[:, None].double()], dim=1)
    drawn = zip(seen.masks, seen.boxes, strict=True)
    pixels = torch.stack([paste_mask(mask, box, SIZE.original).sum() for mask, box in drawn])
    return Run(table, pixels, logits, boxes[0])


@pytest.fixture(scope="module")
def runs(models: dict[str, nn.Module]) -> dict[str, Run]:
    """One run of each detector."""
    return {name: run(models[name], SHOWN if "cascade" in name else None) for name in DETECTORS}


def raw_outputs(model: nn.Module) -> dict[str, Tensor]:
    pyramid = model.neck(model.backbone.maps)
    boxes = torch.tensor(ROIS, dtype=torch.float64)
    out = {f"fpn{i}": level[:, ::16, ::4, ::4] for i, level in enumerate(pyramid)}
    for i, (box_head, mask_head) in enumerate(zip(model.roi_head.box_heads, model.roi_head.mask_heads, strict=True)):
        out[f"cls{i}"], out[f"reg{i}"] = box_head(roi_features(pyramid, boxes, 7))
        out[f"mask{i}"] = mask_head(roi_features(pyramid, boxes, 14))[:, :4]
    return out


@torch.inference_mode()
def test_upernet(models: dict[str, nn.Module]) -> None:
    model, want = models["head_upernet"], golden("head_upernet")
    maps = model.backbone.maps
    logits = model(torch.zeros(1, 3, 128, 192))
    assert relative_error(model.decode_head(maps)[:, ::5, ::2, ::2], want["decode"]) < TOLERANCE
    assert relative_error(logits[:, ::5, ::4, ::4], want["logits"]) < TOLERANCE
    assert relative_error(model.auxiliary_head(maps)[:, ::5], want["aux"]) < TOLERANCE
    assert np.array_equal(logits.argmax(dim=1).numpy(), want["argmax"])


@pytest.mark.parametrize("name", DETECTORS)
@torch.inference_mode()
def test_detector(models: dict[str, nn.Module], runs: dict[str, Run], name: str) -> None:
    model, want = models[name], golden(name)
    raw = raw_outputs(model)
    assert set(raw) == set(want) - {"proposals", "dets", "mask_pixels"}
    for key, value in raw.items():
        assert relative_error(value, want[key]) < TOLERANCE, key
    assert relative_error(proposals_of(model), want["proposals"]) < TOLERANCE
    check_detections(runs[name], name)


def check_detections(got: Run, name: str) -> None:
    want = golden(name)
    assert relative_error(got.detections, want["dets"]) < TOLERANCE
    assert np.array_equal(got.detections[:, 5].numpy(), want["dets"][:, 5])
    assert np.array_equal(got.pixels.numpy(), want["mask_pixels"])


@pytest.mark.slow
def test_all_proposals_of_the_cascade(models: dict[str, nn.Module]) -> None:
    check_detections(run(models["head_cascade_4conv1fc"]), "head_cascade_4conv1fc")


@torch.inference_mode()
def test_unaligned_roi_align_breaks_parity(models: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    aligned = bench.dense.roi.roi_align
    monkeypatch.setattr(bench.dense.roi, "roi_align", lambda *a, **k: aligned(*a, **{**k, "aligned": False}))
    want, raw = golden("head_maskrcnn"), raw_outputs(models["head_maskrcnn"])
    assert relative_error(raw["cls0"], want["cls0"]) > 1e-3
    assert relative_error(raw["mask0"], want["mask0"]) > 1e-3


@torch.inference_mode()
def test_two_samples_a_bin_break_parity(models: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    adaptive = bench.dense.roi.roi_align
    monkeypatch.setattr(bench.dense.roi, "roi_align", lambda *a, **k: adaptive(*a, **{**k, "sampling_ratio": 2}))
    raw = raw_outputs(models["head_maskrcnn"])
    assert relative_error(raw["cls0"], golden("head_maskrcnn")["cls0"]) > 1e-4


@torch.inference_mode()
def test_averaged_probabilities_break_parity(runs: dict[str, Run]) -> None:
    got, want = runs["head_cascade_4conv1fc"], golden("head_cascade_4conv1fc")["dets"][:, 4]
    _, right, _ = select_detections(got.boxes, torch.stack(got.logits).mean(dim=0).softmax(dim=1))
    _, wrong, _ = select_detections(got.boxes, torch.stack([x.softmax(dim=1) for x in got.logits]).mean(dim=0))
    assert relative_error(right, want) < TOLERANCE
    assert wrong.shape != want.shape or relative_error(wrong, want) > 1e-3


@torch.inference_mode()
def test_rounded_anchors_break_parity(models: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    exact = bench.dense.anchors.base_anchors
    monkeypatch.setattr(bench.dense.anchors, "base_anchors", lambda stride: exact(stride).round())
    got = proposals_of(models["head_maskrcnn"])
    want = golden("head_maskrcnn")["proposals"]
    assert got.shape != want.shape or relative_error(got, want) > 1e-4


@torch.inference_mode()
def test_float64_anchors_break_parity(models: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    def anchors(stride: int) -> Tensor:
        root = torch.tensor([0.5, 1, 2], dtype=torch.float64).sqrt()
        w, h = 8 * stride / root, 8 * stride * root
        return torch.stack([-w, -h, w, h], dim=1) / 2

    monkeypatch.setattr(bench.dense.anchors, "base_anchors", anchors)
    assert relative_error(proposals_of(models["head_maskrcnn"]), golden("head_maskrcnn")["proposals"]) > TOLERANCE


BUILDERS = {
    "head_upernet": lambda: SegmentationModel(Maps()),
    "head_maskrcnn": lambda: DetectionModel(Maps(), roi_head=MaskRCNNHead()),
    "head_cascade_4conv1fc": lambda: DetectionModel(Maps(), roi_head=CascadeHead("4conv1fc")),
    "head_cascade_2fc": lambda: DetectionModel(Maps(), roi_head=CascadeHead("2fc")),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_names_and_shapes_are_the_released_ones(name: str) -> None:
    with torch.device("meta"):
        state = BUILDERS[name]().state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == manifest(name)

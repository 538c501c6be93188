"""Every head against the released code's values, in float64, and the faults that must be seen there."""

from __future__ import annotations

from collections.abc import Callable
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


@pytest.fixture(scope="module")
def runs(models: dict[str, nn.Module]) -> dict[str, Run]:
    """One run of each detector: the cascade's 1000 boxes of three stages are the long part of these tests."""
    out = {}
    for name in DETECTORS:
        model, logits, boxes = models[name], [], []
        hooks = [h.register_forward_hook(lambda _, __, o, to=logits: to.append(o[0])) for h in model.roi_head.box_heads]
        score_boxes = model.roi_head.score_boxes

        def kept(*args: object, run: Callable = score_boxes, to: list = boxes) -> tuple[Tensor, Tensor]:
            decoded, scores = run(*args)
            to.append(decoded)
            return decoded, scores

        model.roi_head.score_boxes = kept
        with torch.inference_mode():
            found = model(torch.zeros(1, 3, *PADDED, dtype=torch.float64), [SIZE])[0]
        del model.roi_head.score_boxes
        for hook in hooks:
            hook.remove()
        table = torch.cat([found.boxes, found.scores[:, None], found.labels[:, None].double()], dim=1)
        drawn = zip(found.masks, found.boxes, strict=True)
        pixels = torch.stack([paste_mask(mask, box, SIZE.original).sum() for mask, box in drawn])
        out[name] = Run(table, pixels, logits, boxes[0])
    return out


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
    detections, pixels = runs[name].detections, runs[name].pixels
    assert relative_error(detections, want["dets"]) < TOLERANCE
    assert np.array_equal(detections[:, 5].numpy(), want["dets"][:, 5])
    assert np.array_equal(pixels.numpy(), want["mask_pixels"])


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
    run, want = runs["head_cascade_4conv1fc"], golden("head_cascade_4conv1fc")["dets"][:, 4]
    _, right, _ = select_detections(run.boxes, torch.stack(run.logits).mean(dim=0).softmax(dim=1))
    _, wrong, _ = select_detections(run.boxes, torch.stack([x.softmax(dim=1) for x in run.logits]).mean(dim=0))
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

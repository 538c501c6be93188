"""Training's parts: assignment, sampling, targets, augmentation, schedule, sharing, and a run that goes on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn

pytest.importorskip("torchvision")

from bench import train_ade20k
from bench.cli import BadInput
from bench.dense.anchors import STRIDES, grid_anchors
from bench.dense.boxes import decode_boxes, encode_boxes
from bench.dense.cascade import CascadeHead
from bench.dense.evaluation import Place
from bench.dense.mask_rcnn import MaskRCNNHead
from bench.dense.training.assign import IGNORED, NEGATIVE, match_boxes, sample
from bench.dense.training.augment import (
    DetectionScale,
    SegmentationScale,
    batch_detection,
    detection_sample,
    segmentation_sample,
)
from bench.dense.training.loop import Schedule, optimiser_for, train
from bench.dense.training.roi_loss import Objects, roi_losses, stages_of
from bench.dense.training.rpn_loss import rpn_losses
from bench.evaluation.files import UnreadableImage
from bench.torchrun import Workers
from bench.training import samples
from bench.training.samples import Shares
from tests.bench.dense.trees import write_ade20k

TWELVE = Schedule(1000, 2e-4, 0.05, 500, 1e-3, (8 / 12, 11 / 12))


def test_boxes_are_matched_by_hand() -> None:
    """IoU with the object (0,0,10,10): 1, 0.5, 1/3, 0; another object overlaps no box by half."""
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 5], [5, 0, 15, 10], [50, 50, 60, 60]], dtype=torch.float32)
    objects = torch.tensor([[0, 0, 10, 10], [48, 48, 56, 56]], dtype=torch.float32)
    assert match_boxes(boxes, objects, 0.7, 0.3).tolist() == [0, IGNORED, IGNORED, NEGATIVE]
    assert match_boxes(boxes, objects, 0.5, 0.5).tolist() == [0, 0, NEGATIVE, NEGATIVE]
    iou = 36 / (100 + 64 - 36)
    assert match_boxes(boxes, objects, 0.7, iou - 0.01, each_object=True).tolist() == [0, IGNORED, IGNORED, 1]
    assert match_boxes(boxes, objects, 0.7, iou + 0.01, each_object=True)[3] == NEGATIVE
    assert match_boxes(boxes, objects[:0], 0.5, 0.5).tolist() == [NEGATIVE] * 4


def test_samples_are_shared_out() -> None:
    torch.manual_seed(0)
    matched = torch.tensor([0] * 30 + [NEGATIVE] * 100 + [IGNORED] * 50)
    positive, negative = sample(matched, 40, 0.25)
    assert (len(positive), len(negative)) == (10, 30)
    assert (matched[positive] >= 0).all()
    assert (matched[negative] == NEGATIVE).all()
    assert len(set(positive.tolist())) == 10
    positive, negative = sample(matched[25:], 40, 0.25)
    assert (len(positive), len(negative)) == (5, 35)


def test_deltas_undo_decoding() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 20, 2, 2, generator=generator, dtype=torch.float64) * 100
    low, high = corners.amin(dim=2), corners.amax(dim=2) + 4
    boxes, targets = torch.cat([low, high], dim=-1)
    stds = (0.1, 0.1, 0.2, 0.2)
    found = decode_boxes(boxes, encode_boxes(boxes, targets, stds), stds, None)
    torch.testing.assert_close(found, targets)


def test_a_perfect_rpn_costs_nothing() -> None:
    """Logits of the right sign and the exact deltas; and each mistake costs."""
    objects = torch.tensor([[8, 8, 40, 40], [30, 20, 90, 100]], dtype=torch.float32)
    outputs = []
    for stride in STRIDES:
        side = 128 // stride
        anchors = grid_anchors(stride, side, side, like=objects)
        matched = match_boxes(anchors, objects, 0.5, 0.5)
        logits = torch.where(matched >= 0, 30.0, -30.0).view(side, side, 3)
        best = match_boxes(anchors, objects, 0.0, 0.0).clamp(min=0)
        deltas = encode_boxes(anchors, objects[best], (1.0, 1.0, 1.0, 1.0)).view(side, side, 12)
        outputs.append((logits.permute(2, 0, 1)[None], deltas.permute(2, 0, 1)[None]))
    losses = rpn_losses(outputs, [objects])
    assert losses["rpn_box"] < 1e-5
    # the best anchor of an object counts as a positive whatever its overlap
    worse = rpn_losses([(cls, reg + 0.1) for cls, reg in outputs], [objects])
    assert worse["rpn_box"] > 1e-3
    wrong = rpn_losses([(-cls, reg) for cls, reg in outputs], [objects])
    assert wrong["rpn_score"] > 10 > losses["rpn_score"]


def objects(side: int = 64) -> Objects:
    boxes = torch.tensor([[4, 6, 30, 40], [32, 20, 60, 58]], dtype=torch.float32)
    masks = torch.zeros(2, side, side, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    return Objects(boxes, torch.tensor([3, 7]), masks)


HEADS = {
    "maskrcnn": (MaskRCNNHead, [(0.5, 1.0, "l1")]),
    "cascade": (lambda: CascadeHead("4conv1fc"), [(0.5, 1.0, "giou"), (0.6, 0.5, "giou"), (0.7, 0.25, "giou")]),
    "cascade_2fc": (
        lambda: CascadeHead("2fc"),
        [(0.5, 1.0, "smooth_l1"), (0.6, 0.5, "smooth_l1"), (0.7, 0.25, "smooth_l1")],
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_second_stage_losses_reach_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    build, stages = HEADS[name]
    head = build()
    assert [(s.iou, s.weight, s.box_loss) for s in stages_of(head)] == stages
    pyramid = [torch.randn(1, 256, 64 // s, 64 // s) for s in (4, 8, 16, 32)]
    losses = roi_losses(head, pyramid, [objects().boxes + 2], [objects()], [(64, 64)], number=8)
    assert set(losses) == {"class", "box", "mask"}
    assert losses["class"].item() == pytest.approx(math.log(81) * sum(s[1] for s in stages), rel=0.2)
    assert losses["mask"].item() == pytest.approx(math.log(2) * sum(s[1] for s in stages), rel=0.2)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in head.parameters())


def test_perfect_masks_cost_nothing() -> None:
    """The mask head's targets are the object's own pixels within the box: here all of them."""
    from bench.dense.training.roi_loss import _masks

    class Full(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = torch.full((len(x), 80, 28, 28), -30.0)
            logits[:, [3, 7]] = 30.0
            return logits

    pyramid = [torch.zeros(1, 256, 64 // s, 64 // s) for s in (4, 8, 16, 32)]
    found = objects()
    assert _masks(Full(), pyramid, found.boxes, torch.tensor([0, 1]), found) < 1e-6
    outside = found.boxes + torch.tensor([26.0, 0, 26, 0])
    assert _masks(Full(), pyramid, outside[:1], torch.tensor([0]), found) > 5


@pytest.mark.parametrize("seed", range(4))
def test_objects_follow_the_image(seed: int) -> None:
    """Each object is drawn in a grey level of its own: after scaling and mirroring its box and mask still hold it."""
    torch.manual_seed(seed)
    found = objects()
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    for level, mask in zip((100, 200), found.masks.bool().numpy(), strict=True):
        image[mask] = level
    x, moved = detection_sample(image, found, DetectionScale(1000, (96, 160)))
    assert x.shape[1] in (96, 160)
    grey = x[0] * 58.395 + 123.675
    for level, mask, (x1, y1, x2, y2) in zip((100, 200), moved.masks.bool(), moved.boxes.tolist(), strict=True):
        assert (grey[mask] - level).abs().median() < 1
        rows, columns = mask.nonzero(as_tuple=True)
        assert abs(columns.min() - x1) <= 2
        assert abs(columns.max() + 1 - x2) <= 2
        assert abs(rows.min() - y1) <= 2
        assert abs(rows.max() + 1 - y2) <= 2
    images, sizes, _ = batch_detection([(x, moved), (x[:, :50, :70], moved)])
    assert images.shape[-2:] == (x.shape[1], x.shape[2])
    assert sizes[1] == (50, 70)
    assert images[1, :, 50:].abs().max() == 0


@pytest.mark.parametrize("seed", range(4))
def test_labels_follow_the_image(seed: int) -> None:
    """Classes are grey levels 50 apart: colours are distorted, but a lighter class stays lighter."""
    torch.manual_seed(seed)
    label = np.zeros((60, 80), dtype=np.uint8)
    label[:, 40:], label[30:, :20] = 1, 2
    image = np.stack([40 + 80 * label] * 3, axis=-1).astype(np.uint8)
    x, classes = segmentation_sample(image, label, SegmentationScale((160, 120), (0.5, 2.0), (96, 96)))
    assert x.shape == (3, 96, 96)
    assert classes.shape == (96, 96)
    medians = [x[:, classes == k].median() for k in (0, 1, 2) if (classes == k).sum() > 50]
    assert medians == sorted(medians)
    assert len(medians) >= 2
    assert (x[:, classes == 255] == 0).all()


def test_schedules() -> None:
    factors = [TWELVE.factor(i) for i in (0, 250, 500, 666, 667, 916, 917, 999)]
    assert factors == pytest.approx([1e-3, 0.5005, 1, 1, 0.1, 0.1, 0.01, 0.01])
    line = Schedule(160_000, 6e-5, 0.01, 1500, 1e-6)
    assert line.factor(0) == pytest.approx(1e-6)
    assert line.factor(80_000) == pytest.approx(0.5)
    assert line.factor(159_999) == pytest.approx(1 / 160_000)


def test_weight_decay_spares_what_has_one_axis() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))
    decayed, spared = optimiser_for(model, TWELVE).param_groups
    assert [p.shape for p in decayed["params"]] == [(8, 4, 3, 3)]
    assert decayed["weight_decay"] == 0.05
    assert len(spared["params"]) == 3
    assert spared["weight_decay"] == 0


class Line(nn.Module):
    """One weight that is pulled to about 3."""

    stop = 10**9  # calls after which it is stopped

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(1, 1, bias=False)
        self.calls = 0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if self.calls == self.stop:
            raise KeyboardInterrupt
        self.calls += 1
        return {"square": (self.model(x) - (2.5 + torch.rand(())) * x).square().mean()}


def load(torn: set[int], i: int) -> tuple[Tensor]:
    """An image, whose augmentation is a random number."""
    if i in torn:
        raise UnreadableImage(f"{i}.png is torn")
    return (torch.rand(1) + i,)


def run(
    folder: Path,
    schedule: Schedule,
    torn: set[int] | None = None,
    every: int = 4,
    seed: int = 0,
    loaders: int = 0,
    **facts: object,
) -> Line:
    torch.manual_seed(0)
    losses = Line()

    def batches(start: int) -> Iterator[Any]:
        shares = Shares(7, 2, range(start, schedule.iterations), seed, Workers(), whole=False)
        return samples.batches(partial(load, torn or set()), shares, loaders, False)

    train(losses, batches, schedule, Place(), Workers(), folder / "m.pth", {"--seed": str(seed)}, facts,
          seed=seed, every=every, print_every=5)  # fmt: skip
    return losses


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What augmentation and losses draw is the same again."""
    schedule = Schedule(20, 0.05, 0.0, 3, 1e-3)
    whole = run(tmp_path / "a", schedule)
    with monkeypatch.context() as patched:
        patched.setattr(Line, "stop", 10)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "b", schedule, start="of a file", categories=[["cat", [1]]])
    kept = torch.load(tmp_path / "b" / "m.pth", weights_only=True)
    assert kept["meta"]["iteration"] == 8
    assert kept["meta"]["categories"] == [["cat", [1]]]
    resumed = run(tmp_path / "b", schedule, loaders=1, start="another file's")
    assert torch.equal(whole.model.weight, resumed.model.weight)
    assert torch.load(tmp_path / "b" / "m.pth", weights_only=True)["meta"]["start"] == "of a file"
    assert not list((tmp_path / "b").glob("*.part"))
    with pytest.raises(BadInput, match="of a run with other schedule"):
        run(tmp_path / "b", Schedule(30, 0.05, 0.0, 3, 1e-3))
    with pytest.raises(BadInput, match="of a run with other --seed: give --output another file"):
        run(tmp_path / "b", schedule, seed=1)


def test_an_image_that_cannot_be_read_loses_no_iteration(tmp_path: Path) -> None:
    schedule = Schedule(20, 0.05, 0.0, 3, 1e-3)
    whole = run(tmp_path / "whole", schedule)
    with pytest.raises(BadInput, match=r"--data: 3\.png is torn: mend the file"):
        run(tmp_path, schedule, {3}, every=1000)
    assert 0 < torch.load(tmp_path / "m.pth", weights_only=True)["meta"]["iteration"] < 4
    assert torch.equal(whole.model.weight, run(tmp_path, schedule, every=1000).model.weight)


STATES = {
    "a released checkpoint": ({"meta": {"epoch": 300}, "state_dict": {"weight": torch.ones(1, 1)}}, "no state of this"),
    "a flat one": ({"weight": torch.ones(1, 1)}, "no state of this"),
    "another model's": ({"state_dict": {"bias": torch.ones(1)}}, "damaged"),
    "another shape": ({"state_dict": {"weight": torch.ones(2, 1)}}, "damaged"),
    "no optimiser's": ({"optimiser": {"param_groups": []}}, "damaged"),
    "an iteration that there is not": ({"meta": {"iteration": 9}}, "damaged .*iteration 9 of 4"),
    "text": (None, "no state of this"),
}


@pytest.mark.parametrize("case", STATES)
def test_an_output_that_is_something_else_is_refused_and_left_as_it_is(case: str, tmp_path: Path) -> None:
    content, words = STATES[case]
    path, schedule = tmp_path / "m.pth", Schedule(4, 0.05, 0.0, 0, 1.0)
    if content is None:
        path.write_text("nothing of the kind")
    elif ("state_dict" in content and "meta" in content) or "weight" in content:
        torch.save(content, path)
    else:
        run(tmp_path, schedule)
        known = torch.load(path, weights_only=True)
        torch.save(known | content | {"meta": known["meta"] | content.get("meta", {})}, path)
    before = path.read_bytes()
    with pytest.raises(BadInput, match=words) as error:
        run(tmp_path, schedule)
    assert "give --output another file" in str(error.value)
    assert path.read_bytes() == before


def test_two_trainings_do_not_write_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.dense.training.run._model", lambda *args: pytest.fail("it began"))
    data = write_ade20k(tmp_path / "data", {"a": np.zeros((8, 8), np.uint8)})
    for folder in ("images", "annotations"):
        (data / folder / "validation").rename(data / folder / "training")
    given = ["--model", "moganet_xt", "--weights", "random", "--data", str(data), "--device", "cpu", "--output"]
    with FileLock(tmp_path / "m.pth.lock"), pytest.raises(BadInput, match=r"another run is writing to .*m.pth"):
        train_ade20k.main([*given, str(tmp_path / "m.pth")])
    for factors in (["2", "0.5"], ["0", "0"]):
        with pytest.raises(BadInput, match="--factors"):
            train_ade20k.main([*given, str(tmp_path / "m.pth"), "--factors", *factors])


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not finite at iteration"):
        run(tmp_path, Schedule(400, 1e30, 0.0, 0, 1.0))

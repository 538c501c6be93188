"""The shapes that models meet, seen from the models as they run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from overlock import VARIANTS
from overlock.contmix import contmix, contmix_macs
from overlock.layers import DilatedReparam
from overlock.shapes import ContMixShape, DepthwiseShape, contmix_shapes, depthwise_shapes
from tests.overlock.tools import on_meta


class Met(TorchDispatchMode):
    """Notes the shapes with which ContMix is called."""

    def __init__(self) -> None:
        super().__init__()
        self.contmix: dict[ContMixShape, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.overlock.contmix.default:
            query, value, rpb1, rpb2, scale = args[0], args[2], args[5], args[6], args[7]
            channels, kernel = (query.shape[1], value.shape[1]), (rpb2.shape[-1] + 1) // 2
            shape = ContMixShape(value.shape[0], rpb1.shape[0], *value.shape[2:], *channels, kernel)
            assert scale == shape.scale
            assert [x.shape for x in shape.inputs(device="meta")] == [x.shape for x in args[:7]]
            self.contmix[shape] = None
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("size", [(224, 224), (96, 160)], ids=str)  # the second: maps that ContMix enlarges
@pytest.mark.parametrize("name", VARIANTS)
def test_they_are_what_the_model_meets(name: str, size: tuple[int, int]) -> None:
    model = on_meta(name, deploy=True).eval()
    large: dict[DepthwiseShape, None] = {}

    def note(module: nn.Module, inputs: Any) -> None:
        large[DepthwiseShape(*inputs[0].shape[1:], module.kernel_size)] = None  # type: ignore[arg-type]

    for module in model.modules():
        if isinstance(module, DilatedReparam):
            module.register_forward_pre_hook(note)
    with torch.no_grad(), Met() as met:
        model(torch.empty(2, 3, *size, device="meta"))
    assert list(met.contmix) == list(contmix_shapes(name, *size, batch=2).values())
    assert set(large) == set(depthwise_shapes(name, *size).values())


def test_overlock_ts_third_stage() -> None:
    shape = contmix_shapes("overlock_t", 224, 224)["stage 3"]
    assert shape == ContMixShape(1, 8, 14, 14, 128, 256, 13)
    inputs = shape.inputs()
    assert contmix(*inputs, shape.scale).shape == inputs.value.shape
    macs = contmix_macs(*(inputs[i].shape for i in (0, 1, 2, 5, 6)))
    assert (macs["affinity"] + macs["projection"]) / (196 * 8) == 10_290  # a token and head

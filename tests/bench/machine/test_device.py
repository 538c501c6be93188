"""The device that a command runs on, of two GPUs that are pretended, and of none."""

from __future__ import annotations

import pytest
import torch

from bench.cli import BadInput
from bench.machine.device import choose_device


@pytest.fixture
def selected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pretend two GPUs; the devices that are made current are listed."""
    devices: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    return devices


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_each_process_of_torchrun_takes_a_gpu_of_its_own(
    asked: str, selected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_device(asked, ["tf32"]) == "cuda"
    assert selected == []
    for rank, device in enumerate(("cuda:0", "cuda:1", "cuda:0")):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert choose_device(asked) == selected.pop() == device
    assert choose_device("cuda:1") == "cuda:1"


def test_a_device_that_is_not_there_is_refused(selected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="there are 2 CUDA devices"):
        choose_device("cuda:2")
    with pytest.raises(BadInput, match="tf32 needs a CUDA device"):
        choose_device("cpu", ["float32", "tf32"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    with pytest.raises(BadInput, match=r"no CUDA device here.*--device cpu"):
        choose_device("cuda")

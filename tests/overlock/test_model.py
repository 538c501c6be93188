"""The network's values: float64 parity with the released models, in evaluation and in training."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overlock import VARIANTS, set_backend
from overlock.contmix import BACKENDS
from tests.golden_tools import golden, image, relative_error
from tests.overlock.contmix.cases import widest
from tests.overlock.tools import built, with_golden

EXACT = 1e-9  # float64; relative to the largest value
RUNS = {"224": (2, 3, 224, 224), "160x192": (1, 3, 160, 192), "384": (1, 3, 384, 384)}
CASES = [
    pytest.param(name, key, marks=pytest.mark.slow if (name, key) == ("overlock_t", "384") else ())
    for name in with_golden(VARIANTS)
    for key in RUNS
]
SIZES = sorted(key.removeprefix("logits_") for key in golden("overlock_xt.sizes"))
TRAINING = {"overlock_xt.trainmode": (2, (224, 224)), "overlock_xt.trainmode_160x192": (4, (160, 192))}
MAPS = {"pre": "blocks2", "base": "blocks3", "overview": "blocks4"}


@cache
def released(name: str) -> nn.Module:
    return built(name, name).double()


@cache
def run(name: str, key: str) -> dict[str, Tensor]:
    """Logits and intermediate maps of one forward pass; a map is the output of its stage's last block."""
    model, seen = released(name), {}
    hooks = [
        model.get_submodule(stage)[-1].register_forward_hook(lambda _m, _x, y, key=map_: seen.update({key: y}))
        for map_, stage in MAPS.items()
    ]
    hooks.append(model.head.register_forward_pre_hook(lambda _m, inputs: seen.update(focus=inputs[0])))
    with torch.inference_mode():
        seen["logits"] = model(image(0, RUNS[key]))
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(("name", "key"), CASES)
def test_logits(name: str, key: str) -> None:
    wanted, logits = golden(name)[f"logits_{key}"], run(name, key)["logits"]
    assert relative_error(logits, wanted) < EXACT
    if len(logits) == 2:  # the images' logits are near each other: check what sets them apart
        assert relative_error(logits[0] - logits[1], wanted[0] - wanted[1]) < EXACT


@pytest.mark.parametrize("map_", [*MAPS, "focus"])
@pytest.mark.parametrize(("name", "key"), CASES)
def test_intermediate_maps(name: str, key: str, map_: str) -> None:
    assert relative_error(run(name, key)[map_][:1, ::16, ::3, ::3], golden(name)[f"{map_}_{key}"]) < EXACT


@pytest.mark.parametrize("size", SIZES)
def test_odd_and_small_sizes(size: str) -> None:
    height, width = map(int, size.split("x"))
    with torch.inference_mode():
        logits = released("overlock_xt")(image(3, (1, 3, height, width)))
    assert relative_error(logits, golden("overlock_xt.sizes")[f"logits_{size}"]) < EXACT


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend(backend: str) -> None:
    if widest(backend) != torch.float64:
        pytest.skip("it does not compute in float64")
    model = set_backend(released("overlock_xt"), backend)
    try:
        with torch.inference_mode():
            logits = model(image(0, RUNS["160x192"]))
    finally:
        set_backend(model, "auto")
    assert relative_error(logits, golden("overlock_xt")["logits_160x192"]) < EXACT


def test_float32() -> None:
    wanted = golden("overlock_xt")["logits_224"]
    with torch.inference_mode():
        logits = built("overlock_xt", "overlock_xt")(image(0, RUNS["224"], torch.float32))
    assert relative_error(logits, wanted) < 1e-5
    assert relative_error(logits[0] - logits[1], wanted[0] - wanted[1]) < 5e-3  # 4e-4 of the logits' size apart


@pytest.mark.parametrize(
    "source", [pytest.param("overlock_xt.trainmode", marks=pytest.mark.slow), "overlock_xt.trainmode_160x192"]
)
def test_training_mode(source: str) -> None:
    """Batch statistics: both heads' logits, the loss and the norm of every parameter's gradient."""
    wanted, (seed, size) = golden(source), TRAINING[source]
    model = built("overlock_xt", "overlock_xt", drop_path_rate=0.0, aux_head=True).double().train()
    out = model(image(seed, (4, 3, *size)))
    labels = torch.tensor([1, 2, 3, 4])
    loss = F.cross_entropy(out["main"], labels) + 0.4 * F.cross_entropy(out["aux"], labels)
    loss.backward()
    for key, got in (("main", out["main"]), ("aux", out["aux"]), ("loss", loss)):
        assert relative_error(got, wanted[key]) < EXACT, key

    norms = {key: p.grad.norm().item() for key, p in model.named_parameters() if p.grad is not None}
    assert norms.keys() == set(wanted["grad_names"]) == dict(model.named_parameters()).keys()
    differing = {}
    for key, norm in zip(wanted["grad_names"], wanted["grad_norms"], strict=True):
        # constants that a following BN cancels have a gradient of rounding errors alone
        agrees = norms[key] < 1e-12 if norm < 1e-12 else abs(norms[key] - norm) <= EXACT * norm
        if not agrees:
            differing[str(key)] = (norms[key], norm)
    assert not differing
    assert np.count_nonzero(wanted["grad_norms"] >= 1e-12) > 800


IN_ANOTHER_PROCESS = """
import sys, torch
x = torch.ones(1, 3, 64, 64)
for load in (torch.export.load, torch.jit.load):
    try:
        load(sys.argv[1 + (load is torch.jit.load)])
        print("loaded")
    except RuntimeError as error:
        print(str(error).strip().splitlines()[0])
import overlock
for load in (torch.export.load, torch.jit.load):
    saved = load(sys.argv[1 + (load is torch.jit.load)])
    print(tuple((saved.module() if load is torch.export.load else saved)(x).shape))
"""


@pytest.mark.filterwarnings("ignore")
def test_a_saved_graph_needs_overlock_in_the_process_that_loads_it(tmp_path: Path) -> None:
    """As the README says; what a user meets there without it are PyTorch's words."""
    model = timm.create_model(
        "overlock_xt", depth=(1, 1, 1, 1), sub_depth=(2, 1), dims=(8, 16, 16, 32), sub_num_heads=(1, 2), num_classes=3
    ).eval()
    x, files = torch.ones(1, 3, 64, 64), [str(tmp_path / name) for name in ("m.pt2", "m.pt")]
    with torch.no_grad():
        torch.export.save(torch.export.export(model, (x,)), files[0])
        torch.jit.trace(model, x).save(files[1])
    command = [sys.executable, "-W", "ignore", "-c", IN_ANOTHER_PROCESS, *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    said = done.stdout.splitlines()
    assert said[2:] == ["(1, 3)", "(1, 3)"]
    assert "error when deserializing" in said[0]
    assert "Unknown builtin op: overlock::" in done.stdout or "overlock" in said[1]

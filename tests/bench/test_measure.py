"""What measures: the model under test, blocks of calls, resident memory, the environment. No speed is judged."""

from __future__ import annotations

import itertools
import mmap
import re
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.measure import environment, memory, speed
from bench.measure.job import COST, THROUGHPUT, Job, Settings, automatic_batch
from bench.measure.subject import Subject, check_outputs, create, load, place, randomise, resolve, weights_label

SMALL = ["overlock_xt", "unireplknet_a", "moganet_xt", "convnext_t"]


@pytest.mark.parametrize("name", SMALL)
def test_random_weights_make_the_input_matter(name: str) -> None:
    """As built, layers scaled by 1e-6 or by zero hide most of a network; drawn anew, every part bears on the output."""
    model = load(resolve(name), "deploy", None, seed=0)
    assert check_outputs(place(model, "cpu", "float32", "channels_last", 1, (64, 64), seed=0)) == ()


@pytest.mark.parametrize("form", ["train", "deploy"])
@pytest.mark.parametrize("name", ["overlock_xt", "unireplknet_a"])
def test_weights_are_the_same_for_a_seed_and_for_both_forms(name: str, form: str) -> None:
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        once, again = (load(resolve(name), form, None, seed=3)(images) for _ in range(2))
        other = load(resolve(name), "train", None, seed=3)(images)
    torch.testing.assert_close(once, again, rtol=0, atol=0)
    torch.testing.assert_close(once, other, rtol=1e-3, atol=1e-3 * other.abs().max().item())


@pytest.mark.parametrize("name", ["overlock_xt", "unireplknet_a"])
def test_the_deploy_form_is_folded(name: str) -> None:
    norms = {
        form: sum(isinstance(module, nn.BatchNorm2d) for module in load(resolve(name), form, None, seed=0).modules())
        for form in ("train", "deploy")
    }
    assert norms["train"] > 0
    assert norms["deploy"] == 0


def test_a_model_with_computed_buffers_keeps_them() -> None:
    """Swin's index tables are made at construction, and must not be drawn or blanked."""
    name = "swin_tiny_patch4_window7_224"
    tables = {key: value for key, value in create(resolve(name)).named_buffers() if "index" in key}
    loaded = dict(load(resolve(name), "deploy", None, seed=0).named_buffers())
    assert tables
    assert all(torch.equal(value, loaded[key]) for key, value in tables.items())


def subject_of(function: object) -> Subject:
    module = nn.Module()
    module.forward = function  # type: ignore[assignment]
    return Subject(module, [torch.ones(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)], torch.device("cpu"), "channels_first")


def test_outputs_that_cannot_be_trusted_are_named() -> None:
    assert check_outputs(subject_of(lambda x: x)) == ()
    assert check_outputs(subject_of(lambda x: x / 0)) == ("outputs are not finite",)
    assert check_outputs(subject_of(lambda x: x * 0 + 1)) == ("outputs do not depend on the input",)


def test_randomise_leaves_nothing_constant() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Linear(8, 8))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    randomise(model, 0)
    assert all(parameter.std() > 0 for parameter in model.parameters())
    assert model[1].weight.mean() > 0.5


def test_throughput_counts_images() -> None:
    """A call that sleeps 20 ms cannot be quicker than 50 calls a second, whatever the machine does beside."""
    calls = []

    def sleep(x: Tensor) -> Tensor:
        calls.append(x)
        time.sleep(0.02)
        return x

    budget = speed.Budget(warmup=0.1, measure=0.1, block=0.05, min_blocks=3, max_blocks=3)
    result = speed.throughput(subject_of(sleep), 2, budget)
    rate = result.images_per_second
    assert rate.lo <= rate.median <= rate.hi <= 100
    assert rate.n == 3
    assert not result.launch_bound
    assert calls[-1] is not calls[-2], "inputs take turns"


def test_warm_up_that_never_settles_says_so() -> None:
    durations = itertools.cycle((1.0, 2.0))
    _, steady = speed._warm_up(lambda: next(durations), 0.001)
    assert not steady


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert speed.is_out_of_memory(error) is expected


def fresh_pages(size: int) -> mmap.mmap:
    """Memory that the process did not have before: an allocator may hand out what an earlier test left resident."""
    pages = mmap.mmap(-1, size)
    for first in range(0, size, mmap.PAGESIZE):
        pages[first] = 1
    return pages


@pytest.mark.parametrize("sampled", [False, True])
def test_peak_resident_sees_what_was_held(sampled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if sampled:

        def refuse(self: Path, text: str) -> int:
            raise PermissionError

        monkeypatch.setattr(Path, "write_text", refuse)
    size = 64 * 2**20
    fresh_pages(4 * size).close()  # an earlier peak is not this one's
    with memory.PeakResident() as resident:
        held = fresh_pages(size)
        time.sleep(0.1)
        held.close()
    assert resident.method.startswith("sampled") or not sampled
    assert 0.9 * size < resident.peak < 1.5 * size


def test_memory_of_a_call_is_above_the_loaded_model() -> None:
    """A call that holds three copies of a 16 MiB input peaks at two or three of them above the loaded model."""
    size = 16 * 2**20

    def copies(x: Tensor) -> Tensor:
        first = torch.ones(size, dtype=torch.uint8)
        second = torch.ones(size, dtype=torch.uint8)
        return x * (first[0] + second[0])

    result = memory.measure(subject_of(copies))
    assert 1.8 * size < result.peak.median < 3 * size
    assert result.weights == 0
    assert result.reserved is None


def test_environment_is_told() -> None:
    found = environment.collect("cpu", 1)
    assert found["libraries"]["torch"] == torch.__version__
    assert re.fullmatch(r"[a-z0-9-]+-\d+c-[0-9a-f]{6}", found["machine"])
    assert found["machine"] == environment.machine_key(found)
    assert found["allocator"]["name"]
    assert 1 <= found["cores"] <= found["logical_cpus"]
    assert all(part in environment.describe(found) for part in (found["cpu"], torch.__version__))


def test_commit_is_that_of_the_checkout() -> None:
    assert environment.revision().keys() == {"commit", "dirty"}


def test_automatic_batch() -> None:
    assert [automatic_batch("cpu", (s, s)) for s in (32, 224, 384, 1024)] == [4, 4, 1, 1]
    assert [automatic_batch("cuda", (s, s)) for s in (224, 448)] == [128, 32]


def test_job_survives_the_way_to_a_worker() -> None:
    settings = Settings(batch=2, weights={"a": "b"})
    for kind, metrics in ((COST, ("params", "macs")), (THROUGHPUT, ("throughput",))):
        job = Job(kind=kind, model="m", form="train", resolution=(32, 64), metrics=metrics, settings=settings)
        assert Job.from_dict(job.to_dict()) == job
        assert [record.resolution for record in job.records()] == ["32x64"] * len(metrics)


def test_weights_are_named_by_their_file(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    assert weights_label(path, 0) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert weights_label(None, 7) == "random:7"

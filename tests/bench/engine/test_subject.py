"""What measures: the model under test, blocks of calls, resident memory, the environment. No speed is judged."""

from __future__ import annotations

import itertools
import json
import mmap
import re
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.cli import BadInput
from bench.engine import fit, memory, speed
from bench.engine.request import Request, Settings, automatic_batch
from bench.engine.subject import Subject, check, place, prepare
from bench.loading import create, load, randomise, resolve, weights_label
from bench.machine import environment, nvml
from bench.machine.canary import Canary, Reading
from bench.metrics import COST, LARGEST_BATCH, LATENCY, MEMORY, TRAINING, of_kind

SMALL = ["overlock_xt", "unireplknet_a", "moganet_xt", "convnext_t"]


@pytest.mark.parametrize("name", SMALL)
def test_random_weights_make_the_input_matter(name: str) -> None:
    """As built, layers scaled by 1e-6 or by zero hide most of a network; drawn anew, every part bears on the output."""
    model = load(resolve(name), "deploy", None, seed=0)
    assert check(place(model, "cpu", "float32", "channels_last", 1, (64, 64), seed=0)).problems == ()


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
    assert check(subject_of(lambda x: x)).problems == ()
    assert check(subject_of(lambda x: x / 0)).problems == ("outputs are not finite",)
    assert check(subject_of(lambda x: x * 0 + 1)).problems == ("outputs do not depend on the input",)


def test_randomise_leaves_nothing_constant() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Linear(8, 8))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    randomise(model, 0)
    assert all(parameter.std() > 0 for parameter in model.parameters())
    assert model[1].weight.mean() > 0.5


def test_a_block_counts_its_calls() -> None:
    """A call that sleeps 20 ms cannot be quicker than 50 calls a second, whatever the machine does beside."""
    calls = []

    def sleep(x: Tensor) -> Tensor:
        calls.append(x)
        time.sleep(0.02)
        return x

    work = speed.Inference(subject_of(sleep))
    block = speed.block(work, seconds=0.02, length=0.1, each=False, start=0)
    assert block.calls == 5
    assert len(calls) == 6, "one untimed, since the caches have been others' meanwhile"
    assert block.seconds >= 0.02
    assert calls[-1] is not calls[-2], "inputs take turns"
    each = speed.block(work, seconds=0.02, length=0.1, each=True, start=0)
    assert len(each.each) == 5
    assert min(each.each) >= 0.02
    assert block.joules is None, "no energy is claimed on a CPU"


def test_long_calls_are_not_repeated_untimed() -> None:
    calls = []
    work = speed.Inference(subject_of(lambda x: calls.append(x) or x))
    speed.block(work, seconds=0.5, length=0.1, each=False, start=0)
    assert len(calls) == 1


def test_warm_up_that_never_settles_says_so() -> None:
    durations = itertools.cycle((1.0, 2.0))
    assert not speed.warm_up(lambda i: next(durations), 0.001).steady
    settling = (4.0, 3.0, 2.0, 1.0, 1.0)
    settled = speed.warm_up(lambda i: settling[i], 60.0)
    assert settled.steady
    assert settled.seconds == 1.0
    long = speed.warm_up(lambda i: pytest.fail("a call as long as the limit has warmed up"), 0.5, before=0.8)
    assert (long.seconds, long.steady, long.calls) == (0.8, True, 0)
    assert speed.warm_up(lambda i: 0.1, 0.001, before=0.0005).calls > 0


@pytest.mark.parametrize(
    ("times", "best"),
    [
        ({"channels_last": (1.0,), "channels_first": (0.97,)}, "channels_last"),  # within 5 %: as good
        ({"channels_last": (1.0,), "channels_first": (0.9,)}, "channels_first"),
        (
            {"channels_last": (1.3, 1.0), "channels_first": (1.0, 1.0)},
            "channels_last",
        ),  # a slow spell in the first trial
        ({"channels_last": (0.9,), "channels_first": (1.0,)}, "channels_last"),
    ],
)
def test_the_layout_is_another_one_only_where_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, times: dict[str, tuple[float, ...]], best: str
) -> None:
    subject = subject_of(lambda x: x)
    trials: list[str] = []

    def time_calls(call: object, calls: int, device: object, start: int = 0) -> tuple[float, float]:
        if start == 0:
            trials.append(subject.layout)
        before = max(0, trials[1:].count(subject.layout) - 1)  # the first of all decides of how many images calls are
        assert len(subject.images[0]) == 1, "a call of one second is long enough with one image"
        return times[subject.layout][min(before, len(times[subject.layout]) - 1)], 0.0

    monkeypatch.setattr(speed, "time_calls", time_calls)
    assert speed.faster_layout(subject) == best == subject.layout
    assert len(subject.images[0]) == 2, "all images are there again"


def test_a_training_step_trains() -> None:
    """Every parameter moves, the auxiliary head's too; a loss that is not finite is told."""
    settings = Settings(device="cpu", threads=1, batch=2)
    ready = prepare(Request(kind=TRAINING, model="overlock_xt", form="train", resolution=(32, 32), settings=settings))
    before = {name: p.detach().clone() for name, p in ready.model.named_parameters()}
    work = speed.Training(ready)
    work.optimiser.param_groups[0]["lr"] = 1e-2
    work.call(0)
    still = [name for name, p in ready.model.named_parameters() if torch.equal(p, before[name])]
    assert still == []
    assert any("aux" in name for name in before)
    assert work.problems() == ()
    with torch.no_grad():
        next(iter(ready.model.parameters())).fill_(float("nan"))
    work.call(1)
    assert work.problems() == ("the loss of a training step is not finite",)


@pytest.mark.parametrize("limit", [1, 5, 37, 100])
@pytest.mark.parametrize("guarded", [False, True])
def test_the_largest_batch_is_found(limit: int, guarded: bool) -> None:
    """Each image takes 10 bytes and all of them 3; more than `limit` images never fit. Within 2 % of the best."""
    tried = []

    def peak(batch: int) -> int | None:
        tried.append(batch)
        return 3 + 10 * batch

    found = fit.search(peak, budget=3 + 10 * limit, guarded=guarded)
    assert limit - max(1, limit // 50) < found <= limit
    if guarded:
        assert max(tried) * 10 <= 1.3 * (3 + 10 * limit) + 10, "what would go far over the budget is not tried"


def test_nothing_fits() -> None:
    assert fit.search(lambda batch: None, budget=None, guarded=False) == 0
    assert fit.search(lambda batch: 100 * batch, budget=50, guarded=True) == 0


def test_canary_tells_how_far_it_moved() -> None:
    before, after = Reading(product=1.0, copy=2.0), Reading(product=1.01, copy=1.9)
    moved, what = before.moved(after)
    assert (round(moved, 6), what) == (0.05, "copy")
    reading = Canary(torch.device("cpu")).read()
    assert reading.product > 0
    assert reading.copy > 0


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
    with memory.peak_resident() as resident:
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

    figures, _ = memory.measure(subject_of(copies), {})
    peak, weights = (figure["value"] for figure in figures)
    assert 1.8 * size < peak < 3 * size
    assert weights == 0


def test_environment_is_told() -> None:
    found = environment.collect("cpu", 1)
    assert found["libraries"]["torch"] == torch.__version__
    assert re.fullmatch(r"[a-z0-9-]+-\d+c-[0-9a-f]{6}", found["machine"])
    assert found["machine"] == environment.machine_key(found)
    assert found["allocator"]["name"]
    assert 1 <= found["cores"] <= found["logical_cpus"]
    assert all(part in environment.describe(found) for part in (found["cpu"], torch.__version__))


def test_what_changes_meanwhile_is_told() -> None:
    found = environment.collect("cpu", 1)
    before = found["before"]
    assert before["load_average"] >= 0
    assert isinstance(before["busy_processes"], list)
    assert "gpu" not in before


def test_without_a_card_nvml_tells_nothing() -> None:
    """The library is there or not; either way no energy is claimed."""
    assert nvml.joules("GPU-of-nobody") is None
    assert nvml.state("GPU-of-nobody") == {}


class Card(types.ModuleType):
    """A stand-in for pynvml with a card that tells its clocks and energy, and nothing of its power."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = range(3)

    class NVMLError(Exception):
        pass

    def __getattr__(self, name: str) -> object:
        answers = {
            "nvmlInit": None,
            "nvmlDeviceGetHandleByUUID": "card",
            "nvmlDeviceGetTotalEnergyConsumption": 2_500,
            "nvmlDeviceGetClockInfo": 1980,
            "nvmlDeviceGetTemperature": 40,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0x4 | 0x1,
            "nvmlDeviceGetComputeRunningProcesses": [types.SimpleNamespace(pid=7)],
        }

        def answer(*args: object) -> object:
            if name not in answers:
                raise self.NVMLError(name)
            return answers[name]

        return answer


def test_what_a_card_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Card("pynvml"))
    nvml.handle.cache_clear()
    try:
        assert nvml.joules("GPU-1") == 2.5
        assert nvml.state("GPU-1") == {
            "sm_mhz": 1980,
            "memory_mhz": 1980,
            "temperature_c": 40,
            "throttle_reasons": ["power cap"],
            "other_processes": [7],
        }
    finally:
        nvml.handle.cache_clear()


def test_commit_is_that_of_the_checkout() -> None:
    assert environment.revision().keys() == {"commit", "dirty"}


def test_a_checkpoint_without_auxiliary_head(tmp_path: Path) -> None:
    """Both forms run it, and its training step, which would be another, is refused."""
    path, entry = tmp_path / "w.pth", resolve("overlock_xt")
    state = create(entry, aux_head=False).state_dict()
    torch.save({"state_dict": {f"_orig_mod.{key}": value for key, value in state.items()}}, path)
    model = load(entry, "train", path, seed=0)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert load(entry, "deploy", path, seed=0).frozen
    settings = Settings(device="cpu", threads=1, batch=2, weights={"overlock_xt": str(path)})
    with pytest.raises(BadInput, match="has no auxiliary head: leave the metric training out"):
        prepare(Request(kind=TRAINING, model="overlock_xt", form="train", resolution=(32, 32), settings=settings))


@pytest.mark.parametrize("name", ["overlock_xt", "unireplknet_a"])
def test_the_reparameterised_file_runs_in_that_form_alone(name: str, tmp_path: Path) -> None:
    path, entry = tmp_path / "w.pth", resolve(name)
    torch.save(create(entry, **entry.family.structure["deploy"]).state_dict(), path)
    assert load(entry, "deploy", path, seed=0) is not None
    with pytest.raises(BadInput, match="it is of a deployed model"):
        load(entry, "train", path, seed=0)


def test_automatic_batch() -> None:
    assert [automatic_batch("cpu", (s, s)) for s in (32, 224, 384, 1024)] == [4, 4, 1, 1]
    assert [automatic_batch("cuda", (s, s)) for s in (224, 448)] == [128, 32]


@pytest.mark.parametrize(("kind", "batch", "dtype"), [(COST, None, ""), (MEMORY, 2, "float32"), (LATENCY, 1, "float32"),
                                                      (LARGEST_BATCH, None, "float32")])  # fmt: skip
def test_a_request_survives_the_way_to_a_worker_and_knows_its_conditions(kind: str, batch: int, dtype: str) -> None:
    settings = Settings(batch=2, weights={"a": "b"}, imports=("c",))
    request = Request(kind=kind, model="m", form="train", resolution=(32, 64), settings=settings, env={"d": "e"})
    assert Request.from_dict(json.loads(json.dumps(request.to_dict()))) == request
    record = request.record(of_kind(kind)[0])
    assert (record.resolution, record.batch, record.dtype) == ("32x64", batch, dtype)


def test_weights_are_named_by_their_file(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    assert weights_label(path, 0) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert weights_label(None, 7) == "random:7"


def test_weights_that_a_dtype_cannot_hold_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    model[1].running_var.fill_(1e6)
    with pytest.raises(BadInput, match=r"--dtype float16 cannot hold the weights: 1\.running_var$"):
        place(model, "cpu", "float16", "channels_first", 1, (32, 32), 0)
    for dtype in ("float32", "bfloat16"):
        place(model, "cpu", dtype, "channels_first", 1, (32, 32), 0)

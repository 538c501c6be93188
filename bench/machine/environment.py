"""The machine, the libraries and the settings of a measurement: enough to repeat a figure, or to distrust it."""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import os
import platform
import re
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from bench.machine import nvml
from bench.machine.allocator import STEADY
from bench.project import project

LIBRARIES = ("torch", "timm", "numpy", "fvcore", "triton", "onnxruntime", "openvino")
ENVIRONMENT_VARIABLES = ("OMP_", "MKL_", "KMP_", "GOMP_", "ONEDNN_", "DNNL_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD",
                         "OVERLOCK_NATIVE", "OVERLOCK_DEPTHWISE", "OVERLOCK_FUSIONS", "OVERLOCK_ISA",
                         "ATEN_CPU_CAPABILITY")  # fmt: skip
ACCELERATOR_VARIABLES = ("PYTORCH_", "CUDA_", "CUDNN_", "NVIDIA_TF32_OVERRIDE", "TORCH_")

CUDNN_BENCHMARK = True
"""Whether cuDNN tries its algorithms and keeps the fastest one, in every process that measures."""


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def available_cpus() -> list[int]:
    """The logical CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def physical_cores() -> int:
    """The physical cores in this process's affinity mask, at most as many as the container's quota; at least 1."""
    cores = set()
    for cpu in available_cpus():
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            cores.add(((topology / "physical_package_id").read_text(), (topology / "core_id").read_text()))
        except OSError:  # no Linux, or hidden: then those of the whole machine
            return min(psutil.cpu_count(logical=False) or 1, len(available_cpus()))
    return max(1, min(len(cores), _quota()))


def _quota() -> int:
    """How many CPUs' time the control group grants, rounded up; very many if there is no limit."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return 1 << 16
    return 1 << 16 if limit == "max" else -(-int(limit) // int(period))


@functools.cache
def cpu_name() -> str:
    """The processor's brand string."""
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    if match:
        return " ".join(match[1].split())
    import cpuinfo  # takes a second: only where /proc has no name

    return str(cpuinfo.get_cpu_info().get("brand_raw") or platform.processor() or platform.machine())


def allocator() -> dict[str, Any]:
    """The C library's allocator, or the one that replaces it, and its settings: on a CPU it is part of the machine."""
    name = " ".join(platform.libc_ver()) or platform.system()
    try:
        replaced = re.search(r"/lib(jemalloc|tcmalloc|mimalloc)[^/\n]*", Path("/proc/self/maps").read_text())
    except OSError:
        replaced = None
    return {"name": replaced[1] if replaced else name, "settings": _variables(("MALLOC_", "GLIBC_TUNABLES"))}


def _variables(prefixes: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(prefixes)}


def revision() -> dict[str, Any]:
    """`commit` and `dirty` of the project's checkout (`bench.project`); outside of one, empty and None.

    What the run before kept in a machine's folder makes no tree dirty: a series of runs is of one commit.
    """
    root, results = project().root, project().results
    kept = [f":(exclude){results.relative_to(root)}/*/*"] if results.is_relative_to(root) else []

    def git(*args: str) -> str:
        command = ["git", "-C", str(root), *args]
        return subprocess.run(command, capture_output=True, errors="replace", check=True, timeout=20).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return {"commit": "", "dirty": None}
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *kept)
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return {"commit": "", "dirty": None}


def collect(device: str, threads: int) -> dict[str, Any]:
    """Everything about this machine, its libraries and its device that matters to a measurement, as plain values."""
    import torch

    from overlock import native

    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            versions[library] = ""
    versions["torch"] = str(torch.__version__)
    environment: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": physical_cores(),
        "logical_cpus": len(available_cpus()),
        "memory_bytes": psutil.virtual_memory().total,
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "libraries": versions,
        "threads": threads,
        "allocator": allocator(),
        # of processes that are timed, where the user sets nothing else
        "timed_allocator": {name: str(value) for name, value in STEADY.items()},
        "tf32": "off, except in rows of dtype tf32",
        "variables": _variables(ENVIRONMENT_VARIABLES + ACCELERATOR_VARIABLES),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        # of overlock's C kernels; empty where there are none
        "native_isa": native.isa() if native.why_not() is None else "",
        "device": device,
        "device_name": cpu_name(),
        "driver": "",
        "time": now(),
        **revision(),
    }
    if device.startswith("cuda"):
        environment |= _cuda(device)
    elif device == "mps":
        environment["device_name"] = f"{cpu_name()} GPU"
    environment["machine"] = machine_key(environment)
    environment["before"] = state(environment)
    return environment


def state(environment: dict[str, Any]) -> dict[str, Any]:
    """What may change during a measurement: load, clocks and other busy processes. It is read before and after."""
    values: dict[str, Any] = {"time": now(), "busy_processes": busy_processes()}
    if hasattr(os, "getloadavg"):
        values["load_average"] = os.getloadavg()[0]
    frequency = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    if frequency is not None:
        values["cpu_mhz"] = round(frequency.current)
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor.exists():
        values["governor"] = governor.read_text().strip()
    if environment.get("uuid"):
        values["gpu"] = nvml.state(environment["uuid"])
    return values


BUSY = 20.0
"""Per cent of a CPU above which another process is listed as busy."""


def busy_processes(seconds: float = 0.1) -> list[str]:
    """Names of processes outside this one's family that use a fifth of a CPU or more, watched for `seconds`."""
    me = psutil.Process()
    own = {me.pid, *(p.pid for p in me.parents()), *(p.pid for p in me.children(recursive=True))}
    others = [p for p in psutil.process_iter() if p.pid not in own]
    for first in (True, False):
        busy = []
        for process in others:
            with contextlib.suppress(psutil.Error):
                if process.cpu_percent() >= BUSY:
                    busy.append(process.name())
        if first:
            time.sleep(seconds)
    return sorted(busy)


def _cuda(device: str) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(device)
    return {
        "device_name": properties.name,
        "device_memory_bytes": properties.total_memory,
        "device_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cudnn_benchmark": CUDNN_BENCHMARK,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "uuid": nvml.uuid(device),
        "driver": _cuda_driver(),
    }


def _cuda_driver() -> str:
    """The NVIDIA driver's version by nvidia-smi; empty if that cannot be run."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, errors="replace", check=True, timeout=20).stdout
        return said.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return ""


def machine_key(environment: dict[str, Any]) -> str:
    """A short name of the hardware, fit for a folder: records with the same key are of equal machines."""
    gpu = environment["device_name"] if environment["device"].startswith("cuda") else ""
    parts = [gpu, environment["cpu"], f"{environment['cores']}c"]
    name = re.sub(r"\((r|tm)\)|\bcpu\b|processor|@.*", " ", " ".join(filter(None, parts[:-1])), flags=re.IGNORECASE)
    slug = re.sub(r"[^a-z0-9]+", "-", f"{name} {parts[-1]}".lower()).strip("-")
    memory = round(environment["memory_bytes"] / 2**30)
    digest = hashlib.sha256(f"{slug}/{memory}/{environment['logical_cpus']}".encode()).hexdigest()
    return f"{slug}-{digest[:6]}"


def describe(environment: dict[str, Any]) -> str:
    """One line for people: the machine and its libraries."""
    versions = environment["libraries"]
    parts = [
        f"{environment['cpu']}, {environment['cores']} cores, {environment['memory_bytes'] / 2**30:.0f} GiB",
        environment["os"],
        f"Python {environment['python']}, torch {versions['torch']}, timm {versions['timm']}",
    ]
    if level := environment.get("cpu_capability"):
        parts[0] += f", {level}"
    if environment["device"].startswith("cuda"):
        parts.insert(0, f"{environment['device_name']}, driver {environment['driver']}")
    return "; ".join(parts)

"""ContMix in Triton kernels: forward and backward, with nothing of size N x taps in memory (docs/gpu.md).

Experimental: the kernels have run in Triton's interpreter and been compiled for Hopper, but never run on a GPU.

The kernels are in `triton/forward.py` and `triton/backward.py`. Products take the inputs' dtype and add up in float32;
float32 inputs round to TF32 only where `torch.backends.cuda.matmul.allow_tf32` says so. The result depends on nothing
but the inputs: there are no atomics, forward or backward.

On a CPU it runs in Triton's interpreter, for tests, where TRITON_INTERPRET=1 was set before the first call.

Shapes: B batch, G heads, c channels of a head, H W map, N = H*W, R regions, K kernel size, T = K*K taps.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from overlock import triton_tools
from overlock.contmix.inputs import Inputs, window_size
from overlock.triton_tools import installed, next_power_of_2, on, precision, prepared

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MIN_CAPABILITY = (8, 0)  # bfloat16 matrix instructions, asynchronous copies
MIN_DOT = 16  # smallest side of a matrix product in Triton
SMALL = 5  # the largest K of `small_kernel`: its windows lie in 8 x 8 keys, its taps are one for each lane of a warp
SHORT = 8  # the largest K of windows that few warps take
FLOAT32_COLUMNS = 16  # of a map, for the backward of larger windows in float32
PROGRAMS = 2048  # at least so many programs, if the batch has them, before one goes through several images

FASTER_FROM: int | None = None
"""Tokens (B * N) from which `auto` takes this backend on CUDA. None: not measured, so `auto` does not take it."""


@dataclass(frozen=True)
class Launch:
    """How a kernel is cut: M queries a program, warps, software-pipelining stages."""

    queries: int
    warps: int
    stages: int

    @property
    def options(self) -> dict[str, int]:
        """The keywords that Triton takes."""
        return {"num_warps": self.warps, "num_stages": self.stages}


SHARED_LAUNCHES = (Launch(64, 4, 2), Launch(64, 4, 3), Launch(32, 2, 2), Launch(16, 1, 2))
SLIDING_LAUNCHES = (Launch(16, 4, 2), Launch(16, 4, 1), Launch(16, 2, 2), Launch(16, 8, 2))
SHORT_BACKWARD_LAUNCHES = (Launch(16, 2, 1), Launch(16, 1, 1), Launch(16, 4, 1))
"""What `bench.gpu_run` times; the first is the default until a run says which wins."""

launches: dict[str, Launch] = {
    "shared": SHARED_LAUNCHES[0],
    "float32 shared": Launch(64, 8, 2),  # with four warps it spills 440 bytes a thread
    "sliding": SLIDING_LAUNCHES[0],
    "small": Launch(16, 1, 2),
    "short": Launch(16, 1, 2),  # sliding windows of at most 8 rows
    "backward": Launch(16, 4, 1),
    "float32 backward": Launch(16, 8, 1),  # with four warps `query_kernel` spills 376 to 2,504 bytes a thread
    "short backward": SHORT_BACKWARD_LAUNCHES[0],  # `query_kernel` and `taps_kernel`
}
"""The launches in use. Where windows slide, the warps are the groups that share out the window's rows."""


def _kernel(name: str) -> Any:
    module = "forward" if name in ("shared_kernel", "sliding_kernel", "small_kernel") else "backward"
    return getattr(importlib.import_module(f"{__package__}.triton.{module}"), name)


def interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter."""
    return triton_tools.interpreted(_kernel("shared_kernel"))


def why_not(value: Tensor) -> str | None:
    """The reason why the kernels cannot run on values like these, or None where they can."""
    if not installed():
        return "Triton is not installed"
    if value.dtype not in DTYPES:
        return f"its kernels take float32, bfloat16 and float16, not {str(value.dtype).removeprefix('torch.')}"
    if value.device.type == "cuda":
        capability = torch.cuda.get_device_capability(value.device)
        if capability < MIN_CAPABILITY:
            return f"it needs a GPU of compute capability 8.0 or more, and this one has {capability[0]}.{capability[1]}"
        return None
    if value.device.type == "cpu" and interpreted():
        return None
    return f"it needs a CUDA device, and these inputs are on {value.device.type}"


def left_out(width: int, kernel_size: int) -> bool:
    """Whether the backward in float32, without TF32, is left out on maps of this width."""
    return kernel_size > SHORT and width > FLOAT32_COLUMNS


def why_no_gradient(value: Tensor, kernel_size: int) -> str | None:
    """The reason why the backward does not run on values like these, or None where it does.

    Without TF32 float32 products are sums of single multiply-adds, whose operands lie in registers: on maps wider than
    `FLOAT32_COLUMNS`, `query_kernel` spills 312 bytes a thread with eight warps, 384 with sixteen, 2,504 with four.
    """
    if not value.is_cuda or value.dtype != torch.float32 or torch.backends.cuda.matmul.allow_tf32:
        return None
    if not left_out(value.shape[-1], kernel_size):
        return None
    return (
        f"its backward in float32 takes maps of at most {FLOAT32_COLUMNS} columns at K = {kernel_size}, not "
        f"{value.shape[-1]}: train in bfloat16, allow TF32, or take 'tiled'"
    )


def preferred(value: Tensor) -> bool:
    """Whether `auto` takes this backend: on CUDA, where a measurement says that it is the fastest."""
    if FASTER_FROM is None or value.device.type != "cuda" or why_not(value) is not None:
        return False
    return value.shape[0] * value.shape[2] * value.shape[3] >= FASTER_FROM


def shared_windows(height: int, width: int, kernel_size: int) -> bool:
    """Whether the map falls into equal blocks of positions that share one window."""
    return all(n == kernel_size or (n == kernel_size + 1 and n % 2 == 0) for n in (height, width))


def _split(taps: int) -> tuple[int, int]:
    """Two powers of two (the second may be 0) that hold `taps`: 169 -> 128 and 64 instead of 256."""
    whole = next_power_of_2(taps, MIN_DOT)
    rest = next_power_of_2(taps - whole // 2, MIN_DOT) if taps > whole // 2 else 0
    return (whole // 2, rest) if whole // 2 >= MIN_DOT and 0 < whole // 2 + rest < whole else (whole, 0)


def _precision(x: Tensor) -> str:
    return precision(x, torch.backends.cuda.matmul.allow_tf32)


def _aligned(x: Tensor) -> Tensor:
    """Regions in the last dimension padded with zeros to whole 16 bytes: cuBLAS has no good kernels for rows of 98."""
    return F.pad(x, (0, -x.shape[-1] % 8))


def _keys(inputs: Inputs) -> Tensor:
    """Keys as rows of regions, for both branches: (B*G*c, R padded)."""
    return _aligned(inputs.key.reshape(-1, inputs.proj_weight.shape[1]))


class _Branch:
    """One of the two kernels with its tables, and the constants of its launches."""

    def __init__(self, index: int, inputs: Inputs) -> None:
        key, value, rpb = inputs.key, inputs.value, inputs[5 + index]
        self.batch, channels, self.height, self.width = value.shape
        self.heads, self.k = rpb.shape[0], window_size(rpb)
        self.taps = self.k**2
        self.rpb = rpb.contiguous()
        self.own = slice(self.taps) if index == 0 else slice(-self.taps, None)
        self.proj_weight, self.proj_bias = inputs.proj_weight, inputs.proj_bias[self.own].contiguous()
        cq, cv = key.shape[1] // self.heads, channels // 2 // self.heads
        self.constants: dict[str, Any] = {
            "BRANCH": index,
            "K": self.k,
            "CQ": cq,
            "CQP": next_power_of_2(cq, MIN_DOT),
            "CV": cv,
            "CVP": next_power_of_2(cv, MIN_DOT),
            "PRECISION": _precision(value),
        }

    def padding(self, padded: bool) -> tuple[int, int]:
        """Columns of a row of taps, and taps with the padding: K and K * K, or powers of two; whole 16 bytes."""
        columns = next_power_of_2(self.k + 1) if padded else self.k
        return columns, -(-self.k * columns // 8) * 8

    def projection(self, padded: bool) -> Tensor:
        """The rows of the projection that make this branch's taps: (taps with padding, R padded), zeros between."""
        columns, pitch = self.padding(padded)
        rows = _aligned(self.proj_weight[self.own]).unflatten(0, (self.k, self.k))
        return F.pad(F.pad(rows, (0, 0, 0, columns - self.k)).flatten(0, 1), (0, 0, 0, pitch - self.k * columns))

    @property
    def slides(self) -> bool:
        """Whether the forward is the kernel of sliding windows, which takes padded rows of taps."""
        return self.k > SMALL and not shared_windows(self.height, self.width, self.k)

    def sliding(self, launch: Launch) -> dict[str, int]:
        """How a sliding kernel cuts windows: padded rows of taps, dealt to the warps, and the columns they lie in."""
        kp = next_power_of_2(self.k + 1)  # the last column is no tap
        rows = max(next_power_of_2(self.k), MIN_DOT // kp)
        groups = max(1, min(launch.warps, rows * kp // MIN_DOT))
        keys = next_power_of_2(min(self.width, launch.queries + self.k - 1), MIN_DOT)
        return {"KP": kp, "M": launch.queries, "GROUPS": groups, "ROWS": rows // groups, "KEYS": keys}

    def sizes(self) -> tuple[int, int, int, int]:
        return self.batch, self.heads, self.height, self.width

    def images(self, programs: int) -> int:
        """How many images a program goes through, where one for each image makes `programs` times the batch."""
        parts = min(self.batch, -(-PROGRAMS // programs))
        return -(-self.batch // parts)


def _projected(
    keys: Tensor, branches: Sequence[_Branch], padded: Sequence[bool]
) -> list[tuple[Tensor, dict[str, int]]]:
    """Projected keys of both branches (B*G*c, taps) by one product, and where a kernel finds them."""
    pitches = [branch.padding(p)[1] for branch, p in zip(branches, padded, strict=True)]

    def weight() -> Tensor:
        return torch.cat([branch.projection(p) for branch, p in zip(branches, padded, strict=True)])

    joint = keys @ prepared(branches[0].proj_weight, ("taps", *(b.k for b in branches), *padded), weight).t()
    parts = zip(joint.split(pitches, 1), pitches, strict=True)
    return [(pk, {"PITCH": pitch, "STRIDE": joint.shape[1]}) for pk, pitch in parts]


def forward(inputs: Inputs, scale: float) -> Tensor:
    """ContMix: (B, C, H, W), channels_last."""
    out = torch.empty_like(inputs.value, memory_format=torch.channels_last)
    with on(inputs.value):
        branches = _Branch(0, inputs), _Branch(1, inputs)
        projected = _projected(_keys(inputs), branches, [branch.slides for branch in branches])
        for branch, (pk, options) in zip(branches, projected, strict=True):
            _launch_forward(branch, pk, options, inputs.query, inputs.value, out, scale)
    return out


def _launch_forward(
    branch: _Branch, pk: Tensor, options: dict[str, int], query: Tensor, value: Tensor, out: Tensor, scale: float
) -> None:
    k, height, width = branch.k, branch.height, branch.width
    if shared_windows(height, width, k):
        launch = launches["float32 shared" if value.dtype == torch.float32 else "shared"]
        block = [n if n == k else (k + 1) // 2 for n in (height, width)]
        queries = min(launch.queries, next_power_of_2(block[0] * block[1], MIN_DOT))
        tiles = height // block[0] * (width // block[1]) * -(-block[0] * block[1] // queries)
        taps, more = _split(branch.taps)
        options |= {"TAPS": taps, "MORE": more, "BH": block[0], "BW": block[1], "M": queries}
        kernel = _kernel("shared_kernel")
    elif not branch.slides:
        launch = launches["small"]
        tiles = -(-height // 4) * -(-width // 4)
        options |= {"TAPS": next_power_of_2(branch.taps + 1, MIN_DOT)}  # the last one is no tap
        kernel = _kernel("small_kernel")
    else:
        launch = launches["short" if k <= SHORT else "sliding"]
        tiles = height * -(-width // launch.queries)
        options |= branch.sliding(launch)
        kernel = _kernel("sliding_kernel")
    images = branch.images(branch.heads * tiles)
    kernel[(branch.heads * tiles * -(-branch.batch // images),)](
        query, *query.stride(), pk, value, *value.stride(), branch.proj_bias, branch.rpb, out, *out.stride(),
        *branch.sizes(), scale, images, **branch.constants, **options, **launch.options,
    )  # fmt: skip


def backward(grad: Tensor, inputs: Inputs, scale: float) -> Inputs:
    """The gradients of the seven tensors.

    Raises:
        ValueError: where they are left out, with the reason.
    """
    query, key, value, proj_weight, proj_bias, rpb1, rpb2 = inputs
    reason = why_no_gradient(value, window_size(rpb2))
    if reason is not None:
        raise ValueError(f"no gradient of ContMix: {reason}")
    keys = key.reshape(-1, proj_weight.shape[1]).float()
    d_query = query.new_empty(2, query.shape[0], *query.shape[2:], query.shape[1]).permute(0, 1, 4, 2, 3)
    d_value = torch.empty_like(value, memory_format=torch.channels_last)
    d_key, d_weight, d_bias, d_rpb = torch.zeros_like(keys), [], [], []
    with on(value):
        branches = _Branch(0, inputs), _Branch(1, inputs)
        projected = _projected(_keys(inputs), branches, (True, True))
        for branch, (pk, pitch), d_own_query in zip(branches, projected, d_query, strict=True):
            d_pk, d_taps, table = _launch_backward(branch, pk, pitch, query, value, grad, scale, d_own_query, d_value)
            d_key.addmm_(d_pk, proj_weight[branch.own].float())
            d_weight.append(d_pk.t() @ keys)
            d_bias.append(d_taps.sum(0))
            d_rpb.append(table.to(rpb1.dtype))
    return Inputs(
        d_query.sum(0),
        d_key.view(key.shape).to(key.dtype),
        d_value,
        torch.cat(d_weight).to(proj_weight.dtype),
        torch.cat(d_bias).to(proj_bias.dtype),
        *d_rpb,
    )


def _launch_backward(
    branch: _Branch, pk: Tensor, pitch: dict[str, int], query: Tensor, value: Tensor, grad: Tensor, scale: float,
    d_query: Tensor, d_value: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Fill `d_query` and this branch of `d_value`; returns d_pk (B*G*c, T), the sum of dS (B*G, T) and d_rpb."""
    k, heads, height = branch.k, branch.heads, branch.height
    large = "float32 backward" if value.dtype == torch.float32 else "backward"
    launch = launches["short backward" if k <= SHORT else large]
    queries = launch.queries
    constants = {**branch.constants, **pitch, **branch.sliding(launch)}
    across = -(-branch.width // queries)
    images = branch.images(heads * height * across)
    parts = -(-branch.batch // images)
    single = {"dtype": torch.float32, "device": value.device}
    lse, delta = (torch.empty(branch.batch, heads, height, branch.width, **single) for _ in range(2))  # type: ignore[call-overload]
    part = torch.empty(parts, heads, height, across, k, 2 * k - 1, **single)  # type: ignore[call-overload]
    args = (
        query, *query.stride(), pk, value, *value.stride(), grad, *grad.stride(), branch.proj_bias, branch.rpb, lse,
        delta,
    )  # fmt: skip
    _kernel("query_kernel")[(heads * height * across * parts,)](
        *args, d_query, *d_query.stride(), part, *branch.sizes(), scale, images, **constants,
        PLACES=next_power_of_2(2 * k - 1, MIN_DOT), **launch.options,
    )  # fmt: skip
    d_pk = torch.empty(len(pk), branch.taps, **single)  # type: ignore[call-overload]
    d_taps = torch.empty(branch.batch * heads, branch.taps, **single)  # type: ignore[call-overload]
    _kernel("taps_kernel")[(branch.batch * heads,)](
        *args, d_pk, d_taps, *branch.sizes(), scale, **constants, **launch.options
    )
    columns = next_power_of_2(min(branch.width, queries), MIN_DOT)
    launch = launches[large]
    constants |= {**branch.sliding(launch), "KEYS": columns}
    blocks = -(-height // (constants["GROUPS"] * constants["ROWS"])) * -(-branch.width // columns)
    _kernel("value_kernel")[(branch.batch * heads * blocks,)](
        query, *query.stride(), pk, grad, *grad.stride(), branch.proj_bias, branch.rpb, lse, d_value,
        *d_value.stride(), *branch.sizes(), scale, **constants, **launch.options,
    )  # fmt: skip
    return d_pk, d_taps, _table(part.sum((0, 3), dtype=torch.float64))


def _table(part: Tensor) -> Tensor:
    """(G, H, K, 2K-1) by query row and window row -> d_rpb (G, 2K-1, 2K-1), always added up in one order."""
    _, height, k, places = part.shape
    rows = torch.arange(height, device=part.device)
    first = (rows - k // 2).clamp(0, height - k) - rows + k - 1  # row of the table where a query row's window begins
    target = (first[:, None] + torch.arange(k, device=part.device)).flatten()
    spread = target == torch.arange(places, device=part.device)[:, None]  # 2K-1, H*K
    return torch.matmul(spread.to(part.dtype), part.flatten(1, 2))

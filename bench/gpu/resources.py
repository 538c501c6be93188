"""`python -m bench.gpu.resources`: the resources of the Triton kernels, compiled for a GPU that need not be here.

For every launch of OverLoCK-T's operators it prints the registers of a thread, the spilled bytes, the shared memory and
the instructions of the longest loop. It finds errors that the interpreter cannot: types that do not agree, layouts
without an instruction, spills.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from bench import cli
from bench.cli import BadInput
from bench.gpu.operators import contmix_stages
from overlock.shapes import ContMixShape, DepthwiseShape, depthwise_shapes

POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
STAGES = ("stage 3", "stage 4", "stage 3 at 288")
"""Of `bench.gpu.operators.contmix_stages`."""
DEPTHWISE = ("stage 1", "stage 3", "stage 4")
FUSED = ("stage 1", "stage 3", "stage 4")


@dataclass(frozen=True)
class Resources:
    """One compiled launch."""

    operator: str
    kernel: str
    branch: str
    dtype: str
    warps: int
    registers: int
    spilled: int  # bytes of local memory a thread
    shared: int  # bytes a program
    loop: int  # instructions of the longest loop body
    matrix: int  # matrix instructions in the program
    programs: int


@contextmanager
def recorded() -> Iterator[list[tuple[Any, dict[str, Any], dict[str, Any], int]]]:
    """Within it no kernel is launched: the kernel, arguments, options and programs of each launch are noted instead."""
    from triton.runtime.jit import JITFunction

    seen: list[tuple[Any, dict[str, Any], dict[str, Any], int]] = []

    def note(self: Any, *args: Any, grid: tuple[int, ...], warmup: bool, **kwargs: Any) -> None:
        names = [p.name for p in self.params]
        values = dict(zip(names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in names}
        seen.append((self, values, {k: v for k, v in kwargs.items() if k not in names}, grid[0]))

    with mock.patch.object(JITFunction, "run", note):
        yield seen


def compiled(kernel: Any, values: dict[str, Any], options: dict[str, Any], capability: int) -> Any:
    """The kernel compiled for a capability (90: Hopper), specialised to its arguments as a launch would do."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(kernel.params):
        value = values[parameter.name]
        if parameter.is_constexpr or (isinstance(value, int) and value == 1):
            signature[parameter.name], constants[(i,)] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
            aligned = value.data_ptr() % 16 == 0
        else:
            signature[parameter.name] = "i32" if isinstance(value, int) else "fp32"
            aligned = isinstance(value, int) and value % 16 == 0
        if aligned:
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def _tool(name: str, cubin: bytes, *options: str) -> str:
    import triton

    tool = Path(str(triton.__file__)).parent / "backends/nvidia/bin" / name
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, *options, file.name], capture_output=True, errors="replace", check=True).stdout


def _longest_loop(sass: str) -> int:
    """The most instructions between a backward branch and its target."""
    labels: dict[str, int] = {}
    count = longest = 0
    for line in sass.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line.strip()):
            labels[label[1]] = count
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            count += 1
            branch = re.search(r"BRA.*`\((\.L_x_\d+)\)", instruction[1])
            if branch and branch[1] in labels and count - labels[branch[1]] > 8:
                longest = max(longest, count - labels[branch[1]])
    return longest


def measure(operator: str, dtype: str, launch: Callable[[], Any], capability: int) -> Iterator[Resources]:
    """Compile what `launch` would launch."""
    with recorded() as seen:
        launch()
    for kernel, values, options, programs in seen:
        program = compiled(kernel, values, options, capability)
        usage = re.search(r"REG:(\d+) STACK:(\d+)", _tool("cuobjdump", program.asm["cubin"], "--dump-resource-usage"))
        assert usage is not None
        sass = _tool("nvdisasm", program.asm["cubin"])
        yield Resources(
            operator=operator,
            kernel=kernel.__name__,
            branch={0: "5x5", 1: "KxK"}.get(values.get("BRANCH", -1), ""),
            dtype=dtype,
            warps=options.get("num_warps", 4),
            registers=int(usage[1]),
            spilled=int(usage[2]),
            shared=program.metadata.shared,
            loop=_longest_loop(sass),
            matrix=len(re.findall(r"\b(?:HGMMA|HMMA)\.", sass)),
            programs=programs,
        )


def contmix_launches(shape: ContMixShape, dtype: str, backward: bool) -> None:
    """Launch ContMix of this shape, unless its backward is left out."""
    from overlock.contmix import fused

    if backward and dtype == "float32" and fused.left_out(shape.width, shape.kernel):
        return
    inputs = shape.inputs(DTYPES[dtype])
    with mock.patch.object(fused, "_precision", return_value="ieee"):
        if backward:
            fused.backward(inputs.value, inputs, shape.scale)
        else:
            fused.forward(inputs, shape.scale)


def _empty(dtype: str, *size: int) -> torch.Tensor:
    return torch.empty(size, dtype=DTYPES[dtype])


def _maps(shape: DepthwiseShape, dtype: str, batch: int) -> torch.Tensor:
    maps = _empty(dtype, batch, shape.channels, shape.height, shape.width)
    return maps.contiguous(memory_format=torch.channels_last)


def depthwise_launches(shape: DepthwiseShape, dtype: str, batch: int, backward: bool) -> None:
    """Launch a depthwise convolution of this shape on empty tensors."""
    from overlock.depthwise import triton as depthwise_triton

    x, weight = _maps(shape, dtype, batch), _empty(dtype, shape.channels, 1, shape.kernel, shape.kernel)
    with mock.patch.object(depthwise_triton, "_precision", return_value="ieee"):
        if backward:
            depthwise_triton.depthwise_backward_op(x, x, weight)
        else:
            tile = depthwise_triton.Tile.of(shape.width, shape.kernel)
            depthwise_triton._convolve(tile.padded(x), tile, shape.width, weight, None, False, torch.channels_last)


def last_launches(shape: DepthwiseShape, dtype: str, batch: int) -> None:
    """Launch a depthwise convolution that copies nothing on empty tensors; float32 is multiplied in TF32."""
    from overlock.depthwise import last

    x, weight = _maps(shape, dtype, batch), _empty(dtype, shape.channels, 1, shape.kernel, shape.kernel)
    with mock.patch.object(last, "_precision", return_value="tf32"):
        last.convolve(x, weight, weight[:, 0, 0, 0].contiguous(), None, x)


def block_launches(shape: DepthwiseShape, dtype: str, batch: int) -> None:
    """Launch what stands between the convolutions of a block on empty tensors."""
    from overlock.inference import block_triton, mlp_triton

    channels, inner = shape.channels, max(16, shape.channels // 8)
    x, empty = _maps(shape, dtype, batch), partial(_empty, dtype)
    vector, taps, matrix = empty(channels), empty(channels, 1, 3, 3), empty(channels, channels, 1, 1)
    with (
        mock.patch.object(block_triton, "precision", return_value="ieee"),
        mock.patch.object(mlp_triton, "precision", return_value="ieee"),
    ):
        block_triton.conv_norm(x, taps, vector, vector, vector, 1e-6)
        mlp_triton.conv_gelu(x, taps, vector)
        factor = block_triton.squeeze(
            x, empty(inner, channels, 1, 1), empty(inner), empty(channels, inner, 1, 1), vector
        )
        block_triton.gate_(x, factor, x, matrix, vector)
        mlp_triton.add_product_(x, x, matrix, vector, vector)


def mlp_launches(shape: DepthwiseShape, dtype: str, batch: int) -> None:
    """Launch the MLP of a stage on empty tensors."""
    from overlock.inference import mlp_triton

    channels, hidden = shape.channels, 4 * shape.channels
    x, empty = _maps(shape, dtype, batch), partial(_empty, dtype)
    weights = mlp_triton.Weights(
        empty(hidden, channels, 1, 1), empty(hidden), empty(hidden, 1, 3, 3), empty(hidden), empty(1, hidden, 1, 1),
        empty(channels, hidden, 1, 1), empty(channels),
    )  # fmt: skip
    with mock.patch.object(mlp_triton, "precision", return_value="ieee"):
        mlp_triton.mlp_(x, x, weights, empty(channels), empty(batch, channels, 1, 1))


def everything(stages: Sequence[str], batch: int) -> Iterator[tuple[str, Callable[[str], None]]]:
    """All launches in a dtype, forward and backward: ContMix in these stages, depthwise convolutions, fusions."""
    contmix, depthwise = contmix_stages(), depthwise_shapes("overlock_t", 224, 224)
    for stage, backward in product(stages, (False, True)):
        yield f"contmix {stage}", partial(contmix_launches, replace(contmix[stage], batch=batch), backward=backward)
    for stage in DEPTHWISE:
        for backward in (False, True):
            yield f"depthwise {stage}", partial(depthwise_launches, depthwise[stage], batch=batch, backward=backward)
        yield f"depthwise {stage} as it is", partial(last_launches, depthwise[stage], batch=batch)
    for stage, (kind, launches) in product(FUSED, {"mlp": mlp_launches, "block": block_launches}.items()):
        yield f"{kind} {stage}", partial(launches, depthwise[stage], batch=batch)


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="bench.gpu.resources", description=__doc__.splitlines()[0] if __doc__ else "")
    p.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=["bfloat16"])
    p.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    p.add_argument("--operators", nargs="+", help="their names or beginnings of these, such as contmix (default: all)")
    p.add_argument("--batch", type=int, default=256)
    p.add_argument("--capability", type=int, default=90, help="90 is Hopper (default)")
    p.add_argument("--format", choices=("markdown", "json"), default="markdown")
    args = p.parse_args(argv)
    launches = [
        (name, launch)
        for name, launch in everything(args.stages, args.batch)
        if name.startswith(tuple(args.operators or ("",)))
    ]
    if not launches:
        raise BadInput(f"--operators {' '.join(args.operators)}: there are contmix, depthwise, mlp and block, by stage")
    rows = [
        asdict(r)
        for r in dict.fromkeys(
            r
            for dtype, (name, launch) in product(args.dtypes, launches)
            for r in measure(name, dtype, partial(launch, dtype), args.capability)
        )
    ]
    if args.format == "json":
        print(json.dumps(rows))
        return 0
    from bench.render import by_heading

    print(by_heading(rows, "markdown"))
    return 0


if __name__ == "__main__":
    cli.run("gpu.resources", main)

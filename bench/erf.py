"""`python -m bench.erf`: effective receptive fields, the mechanism that papers on large kernels argue with.

The method is Luo et al.'s (NeurIPS 2016), summarised as RepLKNet does (CVPR 2022, section 4.2): the gradient of the
features in the middle of the last map with respect to the input, positive part, summed over channels and images. A
field is described by how large a square in the middle holds a share of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import cli
from bench.cli import BadInput, Parser, Resolution
from bench.list import add_list
from bench.machine.environment import physical_cores
from bench.models import checkpoint, chosen
from bench.render import table

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

SHARES = (0.2, 0.3, 0.5, 0.99)
"""Shares of the gradient for which the side of the square is given, RepLKNet's."""

SUFFIXES = (".png", ".svg", ".pdf")
SIDE = 150  # of a picture, in pixels
DECADES = 4  # from the brightest pixel to the darkest colour
VIRIDIS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))

DESCRIPTION = """Draw effective receptive fields: how much each input pixel bears on the middle of the last map."""

EPILOG = """With random weights (the default) a field tells of the architecture at the start of training, not of what a
trained network looks at: give --weights for that. Models run in their training form, whose function is the same."""


def parser() -> Parser:
    p = Parser(prog="bench.erf", description=DESCRIPTION, epilog=EPILOG)
    add = p.add_argument
    add("--models", nargs="+", required=True, metavar="MODEL", help="short names, timm names, patterns, or all")
    add_list(p)
    add("--resolutions", nargs="+", type=cli.resolution, default=[(224, 224)], metavar="SIZE", help="224 or HxW")
    add("--weights", nargs="+", default=[], metavar="MODEL=PATH", help="checkpoints (default: random weights)")
    add("--images", type=Path, metavar="DIR", help="folder of images (default: random noise)")
    add("--count", type=cli.positive, default=8, metavar="N", help="images to sum over (8)")
    add("--seed", type=cli.natural, default=0, help="of random weights and noise")
    add("--threads", type=cli.positive, metavar="N", help="CPU threads (default: the physical cores available)")
    add("--device", type=cli.device, default="cpu")
    add("--output", type=Path, default=Path("report/figures/erf.png"), metavar="FILE", help=".png, .svg or .pdf")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.output.suffix not in SUFFIXES:
        raise BadInput(f"--output {args.output}: give a file that ends in {', '.join(SUFFIXES)}")
    names = [entry.name for entry in chosen(args.models)]
    weights = {name: Path(path) for name, path in (checkpoint(text, names) for text in args.weights)}
    files = sorted(_images(args.images)) if args.images else []
    args.output.parent.mkdir(parents=True, exist_ok=True)
    cli.check_writable(args.output)

    import torch

    from bench.loading import load, resolve
    from bench.machine.device import choose_device
    from bench.reporting.charts.draw import check_installed

    check_installed()
    torch.set_num_threads(args.threads or physical_cores())
    device = choose_device(args.device)
    entries = [resolve(name) for name in names]
    fields: dict[tuple[str, Resolution], np.ndarray[Any, Any]] = {}
    for entry in entries:
        model = load(entry, "train", weights.get(entry.name), args.seed).to(device)
        for size in args.resolutions:
            print(f"{entry.name} at {cli.resolution_name(size)}", file=sys.stderr)
            inputs = _inputs(files, size, args.count, args.seed)
            fields[entry.name, size] = receptive_field(model, (image.to(device) for image in inputs))
    rows = [
        [name, cli.resolution_name(size), *(f"{side:.0f} ({side**2 / field.size:.1%})" for side in sides(field))]
        for (name, size), field in fields.items()
    ]
    headings = ["model", "size", *(f"side for {share:.0%}" for share in SHARES)]
    print(table(headings, rows, "table", words=2))
    what = f"{len(files)} images" if files else "noise"
    trained = {name: "trained weights" if name in weights else "random weights" for name, _ in fields}
    number = min(args.count, len(files) or args.count)
    drawn = f"{number} input{'' if number == 1 else 's'} of {what}"
    print("\nSide of the square in the middle that holds a share of the gradient, in pixels (its share of the area).")
    print(f"{drawn}; {', '.join(sorted(set(trained.values())))}.")
    draw(fields, trained, args.output)
    print(f"Brightness is the logarithm of a pixel's share, over {DECADES} powers of ten below the largest one.")
    print(f"wrote {args.output}", file=sys.stderr)
    return cli.OK


def _images(folder: Path) -> list[Path]:
    from bench.evaluation.files import listing

    found = [folder / name for name in listing(folder).images()] if folder.is_dir() else []
    if not found:
        raise BadInput(f"--images {folder}: no images there; give a folder that holds some")
    return found


def _inputs(files: Sequence[Path], size: Resolution, count: int, seed: int) -> Iterator[Tensor]:
    """Normalised images (1, 3, H, W): files resized to `size`, or normal noise.

    Raises:
        BadInput: for a file that is no image.
    """
    import torch
    from timm.data import create_transform

    from bench.accuracy.loader import decode

    if not files:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            yield torch.randn(1, 3, *size, generator=generator)
    transform: Any = create_transform(
        (3, *size), is_training=False, interpolation="bicubic", crop_pct=1.0, crop_mode="squash"
    )
    for file in files[:count]:
        try:
            image = decode(file.read_bytes())
        except Exception as error:  # decoders raise many kinds
            raise BadInput(f"--images: {file}: {type(error).__name__}: {error}; mend or remove it") from error
        yield transform(image).unsqueeze(0)


def receptive_field(model: nn.Module, images: Iterator[Tensor]) -> np.ndarray[Any, Any]:
    """(H, W): positive gradients of the last map's middle features, summed over channels and images, in all 1.

    Raises:
        BadInput: for a model whose last features are no map.
    """
    import torch

    total = None
    for image in images:
        image.requires_grad_(True)
        features: Any = getattr(model, "forward_features", model)(image)
        if features.dim() != 4:
            raise BadInput(
                f"{type(model).__name__} has no feature map of two sides at its end: give a convolutional network"
            )
        middle = features[:, :, features.shape[2] // 2, features.shape[3] // 2]
        (gradient,) = torch.autograd.grad(torch.relu(middle).sum(), image)
        field = gradient.clamp(min=0).sum((0, 1)).double().cpu()
        total = field if total is None else total + field
    assert total is not None, "no image"
    return (total / total.sum()).numpy()


def sides(field: np.ndarray[Any, Any], shares: Sequence[float] = SHARES) -> list[float]:
    """For each share, the side in pixels of the smallest square in the middle that holds it; at most the field's."""
    import numpy as np

    height, width = field.shape
    ys, xs = np.indices(field.shape)
    distance = np.maximum(abs(ys - height // 2), abs(xs - width // 2))
    by_ring = np.bincount(distance.ravel(), weights=field.ravel())
    held = np.cumsum(by_ring) / field.sum()
    radii = np.searchsorted(held, np.asarray(shares) - 1e-12)
    area = [min(2 * int(r) + 1, height) * min(2 * int(r) + 1, width) for r in radii]
    return [float(np.sqrt(a)) for a in area]


def draw(fields: dict[tuple[str, Resolution], np.ndarray[Any, Any]], trained: dict[str, str], path: Path) -> None:
    """A picture of each field: a row for each resolution, brightness by the logarithm of the share."""
    from bench.names import label, sized
    from bench.reporting.charts.draw import save

    names, sizes = (list(dict.fromkeys(keys)) for keys in zip(*fields, strict=True))
    panels = []
    for size in sizes:
        height = SIDE * size[0] // size[1]
        image = {"type": "image", "width": SIDE, "height": height, "align": "left", "baseline": "top"}
        for name in names:
            panels.append(
                {
                    "title": [f"{label(name)} at {sized(cli.resolution_name(size))}", trained[name]],
                    "width": SIDE,
                    "height": height,
                    "data": {"values": [{"url": _picture(fields[name, size])}]},
                    "mark": image,
                    "encoding": {"url": {"field": "url"}, "x": {"value": 0}, "y": {"value": 0}},
                }
            )
    save({"concat": panels, "columns": len(names), "spacing": 8}, path.with_suffix(""), [path.suffix[1:]])


def _picture(field: np.ndarray[Any, Any]) -> str:
    """A field as the address of a picture that holds its own data."""
    import base64
    import io

    import numpy as np
    from PIL import Image

    shown = np.clip(1 + np.log10(field / field.max() + 1e-6) / DECADES, 0, 1)
    colours = [np.interp(shown, np.linspace(0, 1, len(VIRIDIS)), channel) for channel in zip(*VIRIDIS, strict=True)]
    image = Image.fromarray(np.stack(colours, axis=-1).astype(np.uint8))
    file = io.BytesIO()
    image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


if __name__ == "__main__":
    cli.run("erf", main)

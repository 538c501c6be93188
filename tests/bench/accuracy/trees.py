"""Images to evaluate on: real photographs that scikit-learn ships, cut up, and every kind of file that sets hold."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from bench.accuracy.labels import synset_index

SYNSETS = sorted(synset_index())


@functools.cache
def photographs() -> tuple[Image.Image, ...]:
    return tuple(Image.fromarray(image) for image in load_sample_images().images)


def crop(i: int, width: int, height: int) -> Image.Image:
    """The i-th part of a photograph, `width` x `height`."""
    photo = photographs()[i % 2]
    left, top = (i * 97) % (photo.width - width), (i * 61) % (photo.height - height)
    return photo.crop((left, top, left + width, top + height))


def save(image: Image.Image, path: Path, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def make_tree(root: Path, count: int = 40, classes: Sequence[str] = SYNSETS[:20:2]) -> Path:
    """`count` images in class folders: varied sizes, modes, rotations marked in EXIF, tiny and odd ones, odd names."""
    rng = np.random.RandomState(0)
    for i in range(count):
        name = f"{classes[i % len(classes)]}/ILSVRC2012_val_{i + 1:08d}"
        image = crop(i, *(int(side) for side in rng.randint(60, 400, size=2)))
        match i % 8:
            case 1:
                save(image.convert("CMYK"), root / f"{name}.JPEG", quality=80)
            case 2:
                save(image.convert("L"), root / f"{name}.JPEG")
            case 3:
                save(image, root / f"{name}.JPEG", exif=exif(6))
            case 4:
                save(image.resize((3 + i, 2)), root / f"{name}.JPEG")
            case 5:
                rgba = image.convert("RGBA")
                rgba.putalpha(Image.linear_gradient("L").resize(image.size))
                save(rgba, root / f"{name} ünïcode (1).png")
            case 6:
                save(image.quantize(16), root / f"{name}.PNG")
            case _:
                save(image, root / f"{name}.jpg", quality=70)
    return root

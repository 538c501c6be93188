"""The released ImageNet-1K file of each baseline, from the table `weights.csv`."""

from __future__ import annotations

import re

from overlock.checkpoints.download import Release
from overlock.checkpoints.released import release, rows

CONVNEXT_SIZES = {"t": "tiny", "s": "small", "b": "base", "l": "large"}
HUB_FILE = "https://huggingface.co/{repository}/resolve/main/{file}"


def fine_tuned_release(name: str, resolution: int) -> Release | None:
    """The file of a ConvNeXt that its authors fine-tuned at `resolution`, on ImageNet-1K alone, if they released one.

    Its figures at that resolution (ConvNeXt-B at 384: 85.1) are for this file, not for the one trained at 224.
    """
    family, _, size = name.partition("_")
    if family != "convnext" or resolution == 224:
        return None
    file = f"/convnext_{CONVNEXT_SIZES[size]}_1k_{resolution}.pth"
    found = [row for row in rows() if row["kind"] == "checkpoint_url" and row["value"].endswith(file)]
    return release(name, found[0]) if found else None


def baseline_release(name: str) -> Release:
    """The file of a registered baseline: the weights that its figures in the paper are for.

    UniRepLKNet's B, L and XL are released for 384 only, after ImageNet-22K. ConvNeXt's are those of timm's hub.

    Raises:
        ValueError: for a name that the table has no file of.
    """
    family, _, size = name.partition("_")
    if family == "convnext":
        tag = f"convnext_{CONVNEXT_SIZES[size]}.fb_in1k"
        row = next(r for r in rows() if r["model"] == tag and r["kind"] == "hf_hub_id")
        hashed = re.search(r"hashed file: ([\w.]+)", row["format"])
        file = hashed[1] if hashed and hashed[1] != "None" else "model.safetensors"
        url = HUB_FILE.format(repository=row["value"], file=file)
        return release(name, row, url, f"{tag}.{file}")
    for row in rows():
        if row["kind"] != "checkpoint_url":
            continue
        if family == "unireplknet" and re.search(rf"/{name}_(in1k_224|in22k_to_in1k_384)_acc", row["value"]):
            return release(name, row)
        if family == "moganet" and (row["model"], row["resolution"]) == (f"MogaNet-{size.upper()}", "224"):
            return release(name, row)
    raise ValueError(f"weights.csv has no file of {name}")

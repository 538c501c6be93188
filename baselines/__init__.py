"""The networks that OverLoCK is compared with. `import baselines` registers their short names with timm.

`timm.create_model("unireplknet_t")`, `"moganet_b"`, `"convnext_s"`, ... follow timm's conventions, `features_only`
included.
"""

from baselines import convnext, moganet, unireplknet

MODELS: tuple[str, ...] = (*convnext.VARIANTS, *unireplknet.VARIANTS, *moganet.VARIANTS)
"""Registered names, by family and size."""

__all__ = ["MODELS", "convnext", "moganet", "unireplknet"]

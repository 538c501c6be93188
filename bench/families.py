"""The families of networks, each with all that the suite knows of it. Importing this imports no torch.

To add one, see docs/adding.md.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench.cli import BadInput

if TYPE_CHECKING:
    from timm.models import PretrainedCfg
    from torch import nn

    from overlock.checkpoints.download import Release

SIZE_NAMES = {"xt": "xtiny", "t": "tiny", "s": "small", "b": "base", "l": "large", "xl": "xlarge"}
IN_22K = "in22k_ft_in1k"
"""The tag in published.csv of weights that were pretrained on ImageNet-22K."""
STRIDES = (4, 8, 16, 32)


class Family:
    """What the sizes of one architecture share. A family is a subclass with its own values and answers.

    `structure` has, for each form, the builder's keywords that give the released structure of that form: the one whose
    parameters and MACs are counted. A family without re-parameterisation has the one form that inference runs,
    `deploy`.
    """

    name: str
    network: str  # the module whose import registers its models with timm
    sizes: tuple[str, ...] = ()
    structure: Mapping[str, Mapping[str, Any]] = MappingProxyType({"deploy": {}})
    contmix = False  # whether it mixes by ContMix, which the C kernels of inference serve
    large_depthwise = False  # whether `overlock.depthwise` runs its large convolutions
    tested_at: int | None = None  # the side that released weights are evaluated at; None: timm's configuration says
    squash_from: int | None = None  # from this resolution on, evaluation squashes the image instead of cropping it
    second_resize = "bilinear"  # interpolation of segmentation's resize to multiples of 32
    unreleased_heads: tuple[str, ...] = ()  # dense heads whose weights were published with figures but not released
    colour: str = "#56b4e9"  # in charts
    marker: str = "triangle-down"  # in charts: a shape that Vega-Lite has
    figures: Path | None = None  # another package's file of what was published of its models, as results/published.csv

    @property
    def forms(self) -> tuple[str, ...]:
        return tuple(self.structure)

    @property
    def folds(self) -> bool:
        """Whether a training form is folded into the one that inference runs."""
        return "train" in self.structure

    def model(self, size: str) -> str:
        """The short name of a size, registered with timm."""
        return f"{self.name.lower()}_{size}"

    def label(self, model: str) -> str:
        """The name that its paper gives a model, `OverLoCK-T`."""
        return f"{self.name}-{model.rpartition('_')[2].upper()}"

    def aliases(self, size: str) -> tuple[str, ...]:
        """Other names of a size, as its authors have them."""
        return (f"{self.name.lower()}_{SIZE_NAMES[size]}",) if size in SIZE_NAMES else ()

    def published(self, size: str) -> tuple[str, ...]:
        """Its names in published.csv; the first one's weights are those that are released for `resolution`."""
        return (self.model(size),)

    def resolution(self, size: str) -> int | None:
        """The side of the images that its released weights are evaluated at; None: timm's configuration says."""
        return self.tested_at

    def weights_of(self, size: str, pretraining: str, resolution: str) -> tuple[str, str]:
        """Which model and weights a row of published.csv is of: a name that `bench.top1` takes, and the weights if they
        are not its own: a file, or words."""
        return self.model(size), ""

    def register(self) -> Any:
        """The module of its networks, whose import registers them with timm.

        Raises:
            BadInput: if another package's cannot be imported. The suite's own raise what they raise: a checkout that
                is compared may be broken, which is a result.
        """
        try:
            return importlib.import_module(self.network)
        except (Exception, SystemExit) as error:  # whatever another package does
            if any(family is self for family in FAMILIES.values()):
                raise
            why = f"{type(error).__name__}: {error}"
            raise BadInput(
                f"{self.name}: {self.network} cannot be imported ({why}): mend or remove its package"
            ) from error

    def configuration(self, model: str) -> PretrainedCfg:
        """timm's configuration: how the weights of a model are evaluated."""
        from timm.models import get_pretrained_cfg

        self.register()
        configuration = get_pretrained_cfg(model)
        if configuration is None:
            raise BadInput(f"{self.network} registers no {model} with a configuration: mend or remove its package")
        return configuration

    def release(self, model: str) -> Release | None:
        """The released ImageNet-1K file of a model, in its training form; None where timm itself has the weights."""
        file: Release = self.register().release(model)
        return file

    def fine_tuned(self, model: str, resolution: int) -> Release | None:
        """The file that was trained further at `resolution` on ImageNet-1K alone, if one was released."""
        return None

    def pyramid(self, model: str, task: str, **kwargs: Any) -> nn.Module:
        """Four maps of `STRIDES` for a dense task ("segmentation" or "detection"), with random weights.

        Raises:
            BadInput: for a model that has no such maps.
        """
        import timm

        made: nn.Module = timm.create_model(model, features_only=True, **kwargs)
        return made


class OverLoCK(Family):
    name = "OverLoCK"
    network = "overlock"
    sizes = ("xt", "t", "s", "b")
    tested_at = 224
    structure = MappingProxyType(
        {"train": {"deploy": False, "aux_head": True}, "deploy": {"deploy": True, "aux_head": False}}
    )
    contmix = True
    large_depthwise = True
    second_resize = "bicubic"
    unreleased_heads = ("cascade",)
    colour = "#d55e00"
    marker = "circle"

    def release(self, model: str) -> Release:
        from overlock.checkpoints.released import overlock_release

        return overlock_release(model)

    def pyramid(self, model: str, task: str, **kwargs: Any) -> nn.Module:
        return super().pyramid(model, task, dense_form=task, **kwargs)  # the backbones of the two tasks differ


class ConvNeXt(Family):
    name = "ConvNeXt"
    network = "baselines.convnext"
    sizes = ("t", "s", "b", "l")
    tested_at = 224
    squash_from = 384
    colour = "#0072b2"
    marker = "square"

    def aliases(self, size: str) -> tuple[str, ...]:
        return ()  # the long names are timm's, for other weights

    def published(self, size: str) -> tuple[str, ...]:
        return self.model(size), f"{self.model(size)}.{IN_22K}"

    def weights_of(self, size: str, pretraining: str, resolution: str) -> tuple[str, str]:
        timms = f"convnext_{SIZE_NAMES[size]}"
        if pretraining in ("", "fb_in1k"):
            return self.model(size), f"{timms}_1k_384.pth" if resolution == "384" and not pretraining else ""
        return f"{timms}.fb_in22k_ft_in1k" + ("_384" if resolution == "384" else ""), ""

    def configuration(self, model: str) -> PretrainedCfg:
        """The one that is pinned here, with the test size that timm gives the same weights (288, uncropped)."""
        from baselines.convnext import VARIANTS

        pinned, timms = super().configuration(model), super().configuration(VARIANTS[model])
        return replace(pinned, test_input_size=timms.test_input_size, test_crop_pct=timms.test_crop_pct)

    def fine_tuned(self, model: str, resolution: int) -> Release | None:
        from baselines.convnext import fine_tuned

        return fine_tuned(model, resolution)

    def pyramid(self, model: str, task: str, **kwargs: Any) -> nn.Module:
        import timm

        from baselines.convnext import ConvNeXtPyramid

        return ConvNeXtPyramid(timm.create_model(model, **kwargs))


class UniRepLKNet(Family):
    name = "UniRepLKNet"
    network = "baselines.unireplknet"
    sizes = ("a", "f", "p", "n", "t", "s", "b", "l", "xl")
    structure = MappingProxyType({"train": {"deploy": False}, "deploy": {"deploy": True}})
    large_depthwise = True
    squash_from = 384
    colour = "#009e73"
    marker = "triangle-up"

    def published(self, size: str) -> tuple[str, ...]:
        names = self.model(size), f"{self.model(size)}.{IN_22K}"
        return names if self.resolution(size) == 224 else names[::-1]

    def resolution(self, size: str) -> int:
        return 384 if size in ("b", "l", "xl") else 224  # released for 384 only, after ImageNet-22K

    def weights_of(self, size: str, pretraining: str, resolution: str) -> tuple[str, str]:
        file = "unireplknet_s_in22k_to_in1k_384_acc86.44.pth" if size == "s" and pretraining else ""
        return self.model(size), file


class MogaNet(Family):
    name = "MogaNet"
    network = "baselines.moganet"
    sizes = ("xt", "t", "s", "b", "l", "xl")
    tested_at = 224
    colour = "#b07aa1"
    marker = "diamond"

    def weights_of(self, size: str, pretraining: str, resolution: str) -> tuple[str, str]:
        weights = ""
        if pretraining:
            weights = "moga_tiny_deit3_sz256_lr2e_3_8xb128_fp16_ep300.pth" if size == "t" else "refined recipe"
        elif resolution == "256":
            weights = f"moganet_{SIZE_NAMES[size]}_sz256_8xbs128_ep300.pth.tar"
        return self.model(size), weights


class Timm(Family):
    """Every other network of timm's: one form, its own recipe, no published figures here."""

    name = "timm"
    network = "timm"
    colour = "#888888"
    marker = "cross"

    def release(self, model: str) -> None:
        return None

    def pyramid(self, model: str, task: str, **kwargs: Any) -> nn.Module:
        import timm

        try:
            made: Any = timm.create_model(model, features_only=True)
            reductions = made.feature_info.reduction()
        except (RuntimeError, AttributeError) as error:
            raise BadInput(f"{model} gives no feature maps (features_only): {error}") from error
        if not set(STRIDES) <= set(reductions):
            raise BadInput(f"{model} gives maps of strides {reductions}: a dense head needs {list(STRIDES)}")
        indices = [len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES]
        return super().pyramid(model, task, out_indices=indices, **kwargs)


TIMM = Timm()
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {family.name: family for family in (OverLoCK(), ConvNeXt(), UniRepLKNet(), MogaNet(), TIMM)}
)
"""The suite's own: name -> family, in the order in which they are shown. `bench/plugins.py` has others' too."""

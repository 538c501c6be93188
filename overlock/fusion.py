"""The form of each part of OverLoCK that runs at inference, as timm's `reparameterize_model` asks the parts for it.

timm goes from part to part and never asks the network; `overlock.deploy` makes a whole network of the same forms.
"""

from __future__ import annotations

import copy
from functools import singledispatch

from torch import nn

from overlock.layers import refuse_changed


@singledispatch
def fused(part: nn.Module) -> nn.Module | None:
    """A part's folded copy, None where inference has no use for it: `overlock/inference/fold.py` says of each kind."""
    return copy.deepcopy(part)


class Fusible(nn.Module):
    """A part with timm's hook."""

    def fuse(self) -> nn.Module | None:
        """What timm puts in its place.

        Raises:
            ValueError: where a layer is not as it was made: adapted, parametrised, pruned or hooked.
        """
        refuse_changed(self)
        part = fused(self)
        return None if part is None else part.eval().requires_grad_(False)


class Layers(nn.Sequential, Fusible):
    """Layers in turn: convolutions, norms and activations."""


class Stem(Layers):
    """The first ones, which take images in any memory layout."""


class AuxiliaryHead(Layers):
    """A head that only training uses."""


class Projection(nn.Conv2d, Fusible):
    """A convolution alone."""

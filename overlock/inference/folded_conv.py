"""A convolution with everything linear and fixed beside it folded in: how it is made, and the module that runs it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from overlock.inference.convolution import conv, conv_add_, conv_of_vector
from overlock.layers import DilatedReparam, ResDWConv, bn_affine, fuse_conv_bn
from overlock.tracing import as_one_node, is_symbolic


class Frozen(nn.Module):
    """A module of parameters that do not train."""

    frozen = True

    def __getstate__(self) -> dict[str, object]:
        """Without what is made of the weights for the machine that runs them."""
        return {name: value for name, value in self.__dict__.items() if name != "_packed"}

    def hold(self, **tensors: Tensor | None) -> None:
        for name, tensor in tensors.items():
            held = None if tensor is None else nn.Parameter(tensor.detach().clone(), requires_grad=False)
            self.register_parameter(name, held)


class FoldedConv(Frozen):
    """A convolution, then an activation. Made by `Folding`."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: str | None = None, stride: int = 1) -> None:
        super().__init__()
        self.hold(weight=weight, bias=bias)
        self.activation, self.stride = activation, stride

    def forward(self, x: Tensor) -> Tensor:
        if is_symbolic(x):
            return as_one_node(self, x)
        if x.shape[2:] == self.weight.shape[2:] == (1, 1) and self.activation is None:
            return conv_of_vector(x, self.weight, self.bias)
        return conv(x, self.weight, self.bias, self.activation, self.stride)

    def add_to_(self, out: Tensor, x: Tensor) -> Tensor:
        return conv_add_(out, x, self.weight, self.bias)


class Folding:
    """A convolution being folded, in float64: weight (O, I, k, k) and bias (O,). `done` rounds it, once.

    `conv` itself is left as it is.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        sizes = {(k // 2, 1) for k in conv.kernel_size} | set(zip(conv.padding, conv.dilation, strict=False))
        if len(sizes) > 1 or conv.padding_mode != "zeros":
            raise ValueError(f"cannot fold {conv}: only zeros beside the map, half a kernel wide, are folded")
        self.weight = conv.weight.detach().double()
        self.bias = self.weight.new_zeros(len(self.weight)) if conv.bias is None else conv.bias.detach().double()
        self.dtype, self.stride = conv.weight.dtype, conv.stride[0]

    def then_bn(self, bn: nn.BatchNorm2d) -> Folding:
        self.weight, self.bias = fuse_conv_bn(self.weight, self.bias, bn)
        return self

    def shifted(self, shift: Tensor) -> Folding:
        """Followed by a shift (O,)."""
        self.bias = self.bias + shift.detach().double()
        return self

    def after_shift(self, shift: Tensor) -> Folding:
        """Preceded by a shift of each input channel (1x1 alone: padding would not be shifted)."""
        assert self.weight.shape[-1] == 1
        return self.shifted(self.weight.flatten(1) @ shift.detach().double().flatten())

    def after_bn(self, bn: nn.BatchNorm2d) -> Folding:
        """Preceded by BN (1x1 alone)."""
        scale, shift = bn_affine(bn, torch.float64)
        self.after_shift(shift)
        self.weight = self.weight * scale.view(1, -1, 1, 1)
        return self

    def plus_identity(self) -> Folding:
        """Added to its input, as a depthwise convolution may be: one more at the centre tap."""
        centre = self.weight.shape[-1] // 2
        self.weight = self.weight.clone()
        self.weight[:, 0, centre, centre] += 1
        return self

    def done(self, activation: str | None = None) -> FoldedConv:
        return FoldedConv(self.weight.to(self.dtype), self.bias.to(self.dtype), activation, self.stride)


def folded_residual(conv: ResDWConv) -> FoldedConv:
    return Folding(conv).plus_identity().done()


def folded_large(reparam: DilatedReparam, bn: nn.BatchNorm2d) -> FoldedConv:
    """The large kernel with its parallel branches and the BN that follows."""
    folding = Folding(reparam.lk_origin)
    folding.weight, folding.bias = copy.deepcopy(reparam).double().merged_kernel()
    return folding.then_bn(bn).done()

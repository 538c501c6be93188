"""The loss of a classifier that also answers with its auxiliary head."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

AUX_WEIGHT = 0.4
"""Weight of the auxiliary head's loss, as OverLoCK was trained."""


class AuxiliaryLoss(nn.Module):
    """`criterion` of the main logits, and `weight` times that of the auxiliary ones where there are any.

    It takes what OverLoCK gives in training mode, `{"main": (B, classes), "aux": (B, classes)}`, and plain logits as
    well, so that it serves other networks and validation.

    Args:
        criterion: of logits and target, a module or a function; cross entropy where None. With Mixup: timm's
            `SoftTargetCrossEntropy`.
        weight: of the auxiliary loss.
    """

    def __init__(self, criterion: Callable[[Tensor, Tensor], Tensor] | None = None, weight: float = AUX_WEIGHT) -> None:
        super().__init__()
        self.criterion = criterion or nn.CrossEntropyLoss()
        self.weight = weight

    def parts(self, output: Tensor | Mapping[str, Tensor], target: Tensor) -> dict[str, Tensor]:
        """The losses of the heads, each by itself, unweighted: `main`, and `aux` where there is one.

        Raises:
            ValueError: for an output that is neither logits nor such a dictionary.
        """
        if isinstance(output, Tensor):
            return {"main": self.criterion(output, target)}
        if not isinstance(output, Mapping) or "main" not in output:
            got = f"a dictionary of {', '.join(output)}" if isinstance(output, Mapping) else type(output).__name__
            raise ValueError(f"the loss is of logits, or of a dictionary with main and aux, and not of {got}")
        return {head: self.criterion(output[head], target) for head in ("main", "aux") if head in output}

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of `parts`."""
        return parts["main"] + self.weight * parts["aux"] if "aux" in parts else parts["main"]

    def forward(self, output: Tensor | Mapping[str, Tensor], target: Tensor) -> Tensor:
        return self.total(self.parts(output, target))

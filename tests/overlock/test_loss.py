"""The loss of both heads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.loss import SoftTargetCrossEntropy

from overlock import AuxiliaryLoss
from tests.golden_tools import image
from tests.overlock.tools import tiny

LABELS = torch.tensor([1, 3])


def test_weights_the_auxiliary_head() -> None:
    out = tiny(aux_head=True).train()(image(0, (2, 3, 64, 64), torch.float32))
    main, aux = (F.cross_entropy(out[head], LABELS) for head in ("main", "aux"))
    assert main != aux
    torch.testing.assert_close(AuxiliaryLoss()(out, LABELS), main + 0.4 * aux)
    torch.testing.assert_close(AuxiliaryLoss(weight=1.5)(out, LABELS), main + 1.5 * aux)
    assert AuxiliaryLoss().parts(out, LABELS) == {"main": main, "aux": aux}


def test_takes_plain_logits_and_another_criterion() -> None:
    logits = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    assert AuxiliaryLoss()(logits, LABELS) == F.cross_entropy(logits, LABELS)
    soft = F.one_hot(LABELS, 5).float()
    torch.testing.assert_close(AuxiliaryLoss(SoftTargetCrossEntropy())(logits, soft), F.cross_entropy(logits, LABELS))


@pytest.mark.parametrize(("output", "named"), [({"aux": 1, "rest": 2}, "aux, rest"), ([1], "list")])
def test_other_outputs_are_refused(output: object, named: str) -> None:
    with pytest.raises(ValueError, match=f"not of .*{named}"):
        AuxiliaryLoss()(output, LABELS)  # type: ignore[arg-type]

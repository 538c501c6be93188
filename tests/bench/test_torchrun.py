"""The verbs that torchrun starts: it reads their options as its own where one is the beginning of one of its."""

from __future__ import annotations

import pytest
from torch.distributed.run import get_args_parser

from bench import ade20k, coco, top1, train_ade20k, train_coco

OPTIONS = [
    (verb.__name__, option)
    for verb in (ade20k, coco, top1, train_ade20k, train_coco)
    for option in verb.parser()._option_string_actions
    if option.startswith("--")
]


@pytest.mark.parametrize(("verb", "option"), OPTIONS)
def test_torchrun_passes_every_option_on(verb: str, option: str) -> None:
    args = get_args_parser().parse_args(["--nproc-per-node", "2", "-m", verb, option, "value"])
    assert args.training_script == verb
    assert args.training_script_args == [option, "value"]

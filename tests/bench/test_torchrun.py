"""The commands that torchrun starts: it reads their options as its own where one is the beginning of one of its."""

from __future__ import annotations

import pytest
from torch.distributed.run import get_args_parser

from bench import ade20k, coco, top1, train_ade20k, train_coco

OPTIONS = [
    (command.__name__, option)
    for command in (ade20k, coco, top1, train_ade20k, train_coco)
    for option in command.parser()._option_string_actions
    if option.startswith("--")
]


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_torchrun_passes_every_option_on(command: str, option: str) -> None:
    args = get_args_parser().parse_args(["--nproc-per-node", "2", "-m", command, option, "value"])
    assert args.training_script == command
    assert args.training_script_args == [option, "value"]

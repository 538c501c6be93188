"""The commands that torchrun starts: it reads their options as its own where one is the beginning of one of its."""

from __future__ import annotations

import pytest
from torch.distributed.run import get_args_parser

from bench import ade20k, coco, top1, train_ade20k, train_coco
from bench.cli import BadInput
from bench.torchrun import Workers

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


@pytest.mark.parametrize(("rank", "size"), [("x", "2"), ("2", "2"), ("0", "0"), ("-1", "2"), ("0", "2")])
def test_variables_that_torchrun_did_not_set(rank: str, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(BadInput, match="start it by torchrun"), Workers():
        pass

"""The commands that torchrun starts: it reads their options as its own where one is the beginning of one of its."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path

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


def _process(rank: int, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = (folder / "port").read_text()
    kept: list[int] = []

    def fails() -> int:
        if rank == 1:
            raise BadInput("b.png is torn")
        return 7

    with Workers() as workers:
        assert workers.together(lambda: rank, lambda: kept.append(0)) == rank
        assert not kept
        try:
            workers.together(fails, lambda: kept.extend(workers.gather(rank)))
        except BadInput as error:
            (folder / str(rank)).write_text(f"{kept} {error}")


def test_where_one_process_fails_all_keep_and_say_why(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_process, args=(rank, tmp_path), daemon=True) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    assert [(tmp_path / str(k)).read_text() for k in (0, 1)] == ["[0, 1] b.png is torn"] * 2

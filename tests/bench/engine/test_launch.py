"""Workers forked from a server, and what happens where they cannot be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from bench.engine import launch, process
from bench.engine.launch import EXEC, FORK, Conditions, end_servers, start
from bench.engine.process import Failed, Process, conditions
from bench.engine.request import Request, Settings
from bench.paths import REPOSITORY
from tests.bench.processes import all_end

SETTINGS = Settings(device="cpu", batch=1, threads=1)


def servers() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "bench.engine.server" in p.cmdline()]


@pytest.fixture(autouse=True)
def no_servers() -> Iterator[None]:
    end_servers()
    launch._reasons.clear()
    yield
    end_servers()
    launch._reasons.clear()
    assert not servers()


def request(**env: str) -> Request:
    return Request(model="convnext_t", form="deploy", resolution=(32, 32), settings=SETTINGS, env=env)


def test_workers_share_a_server_and_no_memory() -> None:
    with Process(SETTINGS) as first, Process(SETTINGS) as second:
        assert (first.how, second.how, first.why_not_forked) == (FORK, FORK, "")
        assert len(servers()) == 1
        asked = request()
        first.call("prepare", request=asked.to_dict())
        with pytest.raises(Failed, match="request"):
            second.call("turn")  # it has prepared nothing
        assert first.call("memory")["figures"][0]["value"] > 0
        workers = [psutil.Process(p.pid) for p in (first, second)]
    assert all_end(workers)


def test_other_conditions_have_another_server() -> None:
    with Process(SETTINGS, request(OF_A_SIDE="1")) as one, Process(SETTINGS, request(OF_A_SIDE="2")) as other:
        assert one.how == other.how == FORK
        assert len(servers()) == 2
        environments = [psutil.Process(server.pid).environ()["OF_A_SIDE"] for server in servers()]
        assert sorted(environments) == ["1", "2"]


def test_a_killed_worker_says_how_it_ended() -> None:
    with Process(SETTINGS) as process:
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(Failed, match="SIGKILL") as error:
            process.answer()
        assert error.value.ended


def test_a_killed_server_is_started_again_and_its_workers_go_on() -> None:
    with Process(SETTINGS) as first:
        (server,) = servers()
        server.kill()
        first.call("prepare", request=request().to_dict())
        with Process(SETTINGS) as second:
            assert (second.how, second.why_not_forked) == (FORK, "")
            assert second.call("prepare", request=request().to_dict())


def test_a_server_that_cannot_start_is_said(caplog: pytest.LogCaptureFixture) -> None:
    fails = Conditions(python="/bin/false", variables=tuple(os.environ.items()))
    with tempfile.TemporaryFile() as errors:
        worker, why = start(fails, errors)
        assert worker.how == EXEC
        assert worker.wait() == 1
    assert "the server of workers did not start" in why
    assert why in caplog.text


THREADED = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
FORKLESS = """
import os
fork, calls = os.fork, []
def starved():
    calls.append(None)
    if len(calls) > 1:  # the first is the server's own question
        raise OSError(12, "Cannot allocate memory")
    return fork()
os.fork = starved
"""


@pytest.mark.parametrize(("module", "reason"), [(THREADED, "started threads"), (FORKLESS, "Cannot allocate memory")])
def test_what_cannot_be_forked_is_a_fresh_interpreter(tmp_path: Path, module: str, reason: str) -> None:
    (tmp_path / "planted_at_import.py").write_text(module)
    settings = Settings(device="cpu", batch=1, threads=1, imports=("planted_at_import",))
    env = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}
    asked = Request(model="convnext_t", form="deploy", resolution=(32, 32), settings=settings, env=env)
    with Process(settings, asked) as process:
        assert process.how == EXEC
        assert reason in process.why_not_forked
        assert process.call("prepare", request=asked.to_dict())


def test_exec_where_it_is_asked_for() -> None:
    with tempfile.TemporaryFile() as errors:
        worker, why = start(conditions(SETTINGS), errors, EXEC)
        assert (worker.how, why) == (EXEC, "")
        assert not servers()
        worker.kill()
        worker.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_behind(number: signal.Signals) -> None:
    code = (
        "import time\nfrom bench.engine.process import Process\nfrom bench.engine.request import Settings\n"
        "with Process(Settings(device='cpu')) as process:\n    print(process.pid, flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        server = worker.parent()
        assert server is not None
        parent.send_signal(number)
        parent.wait()
    assert all_end([worker, server])


CHILDREN = [(FORK, False, False), (FORK, True, False), (EXEC, False, False), (FORK, False, True)]


@pytest.mark.parametrize(("way", "killed", "daemon"), CHILDREN)
def test_what_a_worker_has_started_ends_with_it(way: str, killed: bool, daemon: bool, tmp_path: Path) -> None:
    """A compiler, say, which has the worker's connection open too. A daemon goes on, and nobody waits for it."""
    child = f"import subprocess\nsubprocess.Popen(['sleep', '60'], start_new_session={daemon})\n"
    (tmp_path / "planted_child.py").write_text(child)
    settings = replace(SETTINGS, process=way)
    asked = replace(request(PYTHONPATH=f"{tmp_path}{os.pathsep}{REPOSITORY}"), settings=settings)
    imports = asdict(replace(settings, imports=("planted_child",)))  # of the worker, and not of its server
    worker = Process(settings, asked)
    worker.call("check", models=[], dtypes=[], settings=imports)
    children = psutil.Process(worker.pid).children(recursive=True)
    assert [child.name() for child in children] == ["sleep"]
    if killed:
        os.kill(worker.pid, signal.SIGKILL)
        assert worker._worker.wait() == -signal.SIGKILL
    begin = time.monotonic()
    worker.end()
    assert time.monotonic() - begin < process.ENDING_SECONDS
    if daemon:
        children[0].kill()
    assert all_end(children, 2)


def test_a_stopped_server_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Process(SETTINGS)
    (server,) = servers()
    monkeypatch.setattr(process, "ENDING_SECONDS", 0.3)
    monkeypatch.setattr(launch, "FORK_SECONDS", 3.0)
    server.suspend()
    try:
        worker.end()
        assert all_end([psutil.Process(worker.pid)], 2)
        with Process(SETTINGS) as another:  # of a server that is started again
            assert another.how == FORK
            assert servers() != [server]
    finally:
        if server.is_running():
            server.kill()

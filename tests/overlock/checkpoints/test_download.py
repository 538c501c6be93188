"""Downloads from a real server on this machine: resumed, checked, refused; and `pretrained=True` on top of them."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import overlock
from overlock.checkpoints import download
from overlock.checkpoints.download import Release, Unavailable, fetch
from overlock.checkpoints.released import overlock_release, rows
from tests.golden.golden_state import tensor_for
from tests.golden_tools import manifest


def weights(seed: int) -> bytes:
    """A file of weights, 5 MB."""
    file = io.BytesIO()
    torch.save({"weight": torch.arange(1_280_000, dtype=torch.float32) + seed}, file)
    return file.getvalue()


CONTENT, OTHER = weights(0), weights(1)
assert len(CONTENT) == len(OTHER)


@dataclass
class Server:
    """What is served, how often it breaks off, and what was asked."""

    url: str = ""
    content: bytes = CONTENT
    etag: str = '"one"'
    ranges: bool = True
    break_after: list[int] = field(default_factory=list)  # bytes, one an answer
    status: int | None = None  # instead of 200 and 206
    headers: dict[str, str | None] = field(default_factory=dict)  # instead of the right ones; None: left out
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for variable in download.OFFLINE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            state.asked.append(wanted)
            if self.path != "/weights.pth":
                self.send_error(404)
                return
            start = int(re.sub(r"\D", "", wanted) or 0) if state.ranges else 0
            if self.headers.get("If-Range", state.etag) != state.etag:
                start = 0
            body = state.content[start:]
            whole = len(state.content)
            self.send_response(state.status or (206 if start else 200))
            right = {"Content-Length": str(len(body)), "ETag": state.etag}
            if start:
                right["Content-Range"] = f"bytes {start}-{whole - 1}/{whole}"
            for name, value in (right | state.headers).items():
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[: state.break_after.pop(0)] if state.break_after else body)

        def log_message(self, *args: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{httpd.server_port}/weights.pth"
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def release(server: Server, **kwargs: Any) -> Release:
    return Release("net", server.url, "weights.pth", **kwargs)


def known(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def test_fetched_once(server: Server, tmp_path: Path) -> None:
    wanted = release(server, **known(CONTENT))
    assert fetch(wanted) == fetch(wanted) == tmp_path / "hub" / "checkpoints" / "weights.pth"
    assert wanted.path.read_bytes() == CONTENT
    assert server.asked == [""]
    assert {p.name for p in wanted.path.parent.iterdir()} <= {"weights.pth", "weights.pth.lock"}


def test_resumed_within_a_call(server: Server) -> None:
    server.break_after = [1_000_000]
    assert fetch(release(server, **known(CONTENT))).read_bytes() == CONTENT
    assert server.asked == ["", "bytes=1000000-"]


def test_resumed_by_a_later_call(server: Server) -> None:
    server.break_after = [1_000_000, 500_000, 250_000]
    with pytest.raises(Unavailable, match=rf"stopped at 1750000 of {len(CONTENT)} bytes.*curl -L -C - "):
        fetch(release(server))
    assert fetch(release(server)).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=1750000-"


@pytest.mark.parametrize("ranges", [True, False], ids=["another file by now", "a server without ranges"])
def test_never_joins_parts_that_do_not_belong_together(server: Server, ranges: bool) -> None:
    server.break_after = [1_000_000, 0, 0]
    with pytest.raises(Unavailable):
        fetch(release(server))
    server.content, server.etag, server.ranges = OTHER, '"two"' if ranges else '"one"', ranges
    assert fetch(release(server)).read_bytes() == OTHER


def test_a_whole_part_of_unknown_size_is_fetched_anew(server: Server) -> None:
    part = release(server).path.with_name("weights.pth.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    assert fetch(release(server)).read_bytes() == CONTENT


@pytest.mark.parametrize("what", ["sha256", "size"])
def test_a_wrong_file_is_not_kept(server: Server, what: str) -> None:
    wanted = release(server, **known(CONTENT))
    server.content = CONTENT[:-1] + (b"\1" if what == "sha256" else b"")
    with pytest.raises(Unavailable, match="SHA-256" if what == "sha256" else f"gave {len(CONTENT) - 1} bytes"):
        fetch(wanted)
    assert not wanted.path.exists()


@pytest.mark.parametrize("first_known", [True, False], ids=["known sum", "sum recorded on first use"])
def test_a_flipped_bit_is_caught(server: Server, first_known: bool) -> None:
    wanted = release(server, **(known(CONTENT) if first_known else {}))
    path = fetch(wanted)
    sidecar = path.with_name("weights.pth.sha256.json")
    assert sidecar.exists() != first_known
    if not first_known:
        assert json.loads(sidecar.read_text())["sha256"] == known(CONTENT)["sha256"]
        fetch(wanted)
    spoiled = bytearray(CONTENT)
    spoiled[4321] ^= 4
    path.write_bytes(spoiled)
    with pytest.raises(Unavailable, match=r"weights\.pth has SHA-256 .* remove it"):
        fetch(wanted)


def test_a_missing_file_is_named(server: Server) -> None:
    with pytest.raises(Unavailable, match=r"nothing\.pth answers 404"):
        fetch(replace(release(server), url=server.url.replace("weights", "nothing")))


def test_no_server(server: Server) -> None:
    wanted = replace(release(server), url="http://127.0.0.1:9/weights.pth")
    with pytest.raises(Unavailable) as error:
        fetch(wanted)
    assert str(error.value).endswith(wanted.command())
    assert "\n" not in str(error.value)


def test_offline_uses_what_is_there(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERLOCK_OFFLINE", "1")
    wanted = release(server)
    with pytest.raises(Unavailable, match=re.escape(f"curl -L -C - --create-dirs -o {wanted.path} {wanted.url}")):
        fetch(wanted)
    wanted.path.parent.mkdir(parents=True)
    wanted.path.write_bytes(CONTENT)
    assert fetch(wanted) == wanted.path
    assert server.asked == []


PAGE = b"<html><body>Sign in</body></html>"


@pytest.mark.parametrize(
    "content", [PAGE, b"", CONTENT[:2_000_000]], ids=["a page", "nothing", "cut short without a length"]
)
def test_only_weights_are_kept_where_no_sum_is_known(server: Server, content: bytes) -> None:
    wanted = release(server)
    server.content, server.headers = content, {"Content-Length": None}
    with pytest.raises(Unavailable, match="gave no weights: does it ask for a login") as error:
        fetch(wanted)
    assert "\n" not in str(error.value)
    assert {p.name for p in wanted.path.parent.iterdir()} <= {"weights.pth.lock"}
    server.content, server.headers = CONTENT, {}
    assert fetch(wanted).read_bytes() == CONTENT, "nothing of it is left in the way"


def test_a_page_that_an_older_version_kept_is_refused(server: Server) -> None:
    """It recorded the page's sum, too: once both are removed, the file is fetched."""
    wanted = release(server, size=len(CONTENT))
    wanted.path.parent.mkdir(parents=True)
    wanted.path.write_bytes(PAGE)
    with pytest.raises(Unavailable, match=r"has 33 bytes, not \d+: remove it to fetch it again"):
        fetch(wanted)
    side = wanted.path.with_name("weights.pth.sha256.json")
    side.write_text(json.dumps({"sha256": "0" * 64, "size_bytes": len(PAGE)}))
    wanted.path.write_bytes(CONTENT)
    with pytest.raises(Unavailable, match=r"remove it and \S*weights\.pth\.sha256\.json to fetch it again"):
        fetch(replace(wanted, size=None))
    wanted.path.unlink()
    assert fetch(replace(wanted, size=None)).read_bytes() == CONTENT, "a record of a file that is gone is made anew"
    side.unlink()
    wanted.path.write_bytes(PAGE)
    with pytest.raises(Unavailable, match=r"weights\.pth is not what was released; remove it"):
        fetch(replace(wanted, size=None))
    assert not side.exists()


@pytest.mark.parametrize("text", ["null", "{}", "[1]", '{"sha256": "x", "size_bytes": "many"}', "{", "7"])
def test_a_damaged_side_file_is_named(server: Server, text: str) -> None:
    wanted = release(server)
    side = fetch(wanted).with_name("weights.pth.sha256.json")
    side.write_text(text)
    with pytest.raises(Unavailable, match=r"weights\.pth\.sha256\.json is damaged: remove it"):
        fetch(wanted)


ODD: dict[str, tuple[dict[str, Any], str]] = {
    "length": ({"headers": {"Content-Length": "abc"}}, "sends Content-Length 'abc'"),
    "negative": ({"headers": {"Content-Length": "-5"}}, "sends Content-Length '-5'"),
    "204": ({"status": 204, "headers": {"Content-Length": None}}, "answers 204"),
    "redirect": ({"status": 302, "headers": {"Location": "http://[::bad"}}, "cannot be fetched"),
    "loop": ({"status": 302, "headers": {"Location": "/weights.pth"}}, "answers 302"),
    "416": ({"status": 416}, "answers 416"),
    "a part unasked for": ({"status": 206, "headers": {"Content-Range": "bytes 7-9/10"}}, "bytes 7-9/10"),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_servers(server: Server, kind: str) -> None:
    values, said = ODD[kind]
    for name, value in values.items():
        setattr(server, name, value)
    with pytest.raises(Unavailable, match=re.escape(said)) as error:
        fetch(release(server))
    assert str(error.value).startswith("net: its weights are not at ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("answer", ["bytes 0-9/5120000", "bytes */5120000", "", None])
def test_another_part_than_asked_for_is_not_joined(server: Server, answer: str | None) -> None:
    server.break_after = [1_000_000, 0, 0]
    with pytest.raises(Unavailable):
        fetch(release(server))
    server.headers = {"Content-Range": answer}
    with pytest.raises(Unavailable, match="not the part from byte 1000000"):
        fetch(release(server))
    assert release(server).path.with_name("weights.pth.part").stat().st_size == 1_000_000


@pytest.mark.parametrize("text", [b"\xff\xfe", b"two\nlines", b""])
def test_a_damaged_tag_starts_anew(server: Server, text: bytes) -> None:
    server.break_after = [1_000_000, 0, 0]
    with pytest.raises(Unavailable):
        fetch(release(server))
    release(server).path.with_name("weights.pth.part.etag").write_bytes(text)
    assert fetch(release(server)).read_bytes() == CONTENT
    assert server.asked[-1] == ""


@pytest.mark.parametrize("first_known", [True, False])
def test_a_read_only_cache_that_holds_the_file_serves(
    server: Server, first_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is locked or written for a file that is there. (Root may write anywhere: it is barred here.)"""
    wanted = release(server, **(known(CONTENT) if first_known else {}))
    wanted.path.parent.mkdir(parents=True)
    wanted.path.write_bytes(CONTENT)
    whole = Path.open

    def read_only(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if set(mode) & set("wax+"):
            raise PermissionError(13, "Permission denied", str(self))
        return whole(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", read_only)
    monkeypatch.setattr(download, "FileLock", None)
    monkeypatch.setattr(Path, "write_text", lambda self, *args, **kwargs: read_only(self, "w"))
    assert fetch(wanted) == wanted.path
    assert os.listdir(wanted.path.parent) == ["weights.pth"]


@pytest.mark.parametrize("home", [None, "unwritable"])
def test_without_a_home_of_its_own(
    home: str | None, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A service's user has none, and a container's home may be another user's: torch's `~` would be a folder here."""
    for name in ("TORCH_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    if home is None:
        monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as where there is no HOME and no user of ours
    else:

        def denied(path: Path, **kwargs: Any) -> bool:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        monkeypatch.setenv("TORCH_HOME", str(tmp_path / home))
        monkeypatch.setattr(Path, "exists", denied)
    with pytest.raises(Unavailable, match="TORCH_HOME"):
        fetch(Release("m", server.url, "m.pth"))
    assert not server.asked
    assert not list(tmp_path.iterdir())


def test_the_table() -> None:
    found = {name: overlock_release(name) for name in overlock.VARIANTS}
    assert found["overlock_t"].sha256 == "40c7ef3e0438cdbe026de76cfe2830b8844d1c732dc3b4cb1b046c191ec1ca13"
    assert found["overlock_t"].size == 141_560_021
    assert found["overlock_s"].sha256 is None
    assert [r.file for r in found.values()] == [f"overlock_{s}_in1k_224.pth" for s in ("xt", "t", "s", "b")]
    assert all(overlock_release(name, deploy=True).file.endswith("_reparam.pth") for name in overlock.VARIANTS)
    assert len({r["value"] for r in rows() if r["kind"].startswith("checkpoint_url")}) > 60


@pytest.mark.parametrize(
    "kwargs", [{}, {"aux_head": True}, {"deploy": True}, {"num_classes": 7}, {"num_classes": 7, "aux_head": True}]
)
def test_pretrained(server: Server, kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    form = "overlock_xt.deploy" if kwargs.get("deploy") else "overlock_xt"
    state = {key: torch.from_numpy(tensor_for(key, shape)) for key, shape in manifest(form).items()}
    torch.save(state, tmp_path / "made.pth")
    server.content = (tmp_path / "made.pth").read_bytes()
    monkeypatch.setattr("overlock.variants.overlock_release", lambda name, deploy: release(server))
    model = timm.create_model("overlock_xt", pretrained=True, **kwargs)
    own = model.state_dict()
    assert any(key.startswith("aux_head.") for key in own) == kwargs.get("aux_head", False)
    replaced = ("head.4.", "aux_head.2.") if "num_classes" in kwargs else ("no such",)
    assert all(torch.equal(value, state[key]) for key, value in own.items() if not key.startswith(replaced))
    assert not model.pretrained_cfg.get("state_dict")


def test_pretrained_refuses_another_models_file(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state = {key: torch.from_numpy(tensor_for(key, s)) for key, s in manifest("unireplknet_a").items()}
    torch.save(state, tmp_path / "made.pth")
    server.content = (tmp_path / "made.pth").read_bytes()
    monkeypatch.setattr("overlock.variants.overlock_release", lambda name, deploy: release(server))
    with pytest.raises(ValueError, match="does not fit OverLoCK"):
        timm.create_model("overlock_xt", pretrained=True, num_classes=7)


def test_pretrained_from_a_file_at_hand(tmp_path: Path) -> None:
    state = {key: torch.from_numpy(tensor_for(key, shape)) for key, shape in manifest("overlock_xt").items()}
    torch.save({"model": state}, tmp_path / "w.pth")
    overlay = {"file": str(tmp_path / "w.pth")}
    model = timm.create_model("overlock_xt", pretrained=True, pretrained_cfg_overlay=overlay, features_only=True)
    own = model.state_dict()
    shared = own.keys() & state.keys()
    assert len(shared) > 100
    assert all(torch.equal(own[key], state[key]) for key in shared)

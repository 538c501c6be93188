"""Files that were valid, with faults as they come about: cut, flipped, doubled, other cells, and what editors leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

CELLS = (b"", b"nan", b"-1", b"1e999", b"[]", b"{}", b"null", b"true", b"0", b"\xff", b"\x00", b'"', b"\xc3\xa9",
         b"x" * 200_000, b"9" * 5000, b"[" * 200_000, b"2020-01-01", b"../../x")  # fmt: skip
SEPARATORS = b',:;\t "{}[]\n'


def _cut(content: bytes, at: int, cell: bytes) -> bytes:
    return content[:at]


def _flip(content: bytes, at: int, cell: bytes) -> bytes:
    return content[:at] + bytes([content[at] ^ 1 << len(cell) % 8]) + content[at + 1 :] if content else content


def _cell(content: bytes, at: int, cell: bytes) -> bytes:
    """Another cell of a table, or another value of JSON, in the place of the one there."""
    begin = max(content.rfind(bytes([mark]), 0, at) for mark in SEPARATORS) + 1
    ends = [end for mark in SEPARATORS if (end := content.find(bytes([mark]), at)) >= 0]
    return content[:begin] + cell + content[min(ends, default=len(content)) :]


def _drop_line(content: bytes, at: int, cell: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join(line for i, line in enumerate(lines) if i != at % max(1, len(lines)))


def _double_line(content: bytes, at: int, cell: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join(line * (1 + (i == at % max(1, len(lines)))) for i, line in enumerate(lines))


def _insert(content: bytes, at: int, cell: bytes) -> bytes:
    return content[:at] + cell + content[at:]


def _mark(content: bytes, at: int, cell: bytes) -> bytes:
    return b"\xef\xbb\xbf" + content


def _replace(content: bytes, at: int, cell: bytes) -> bytes:
    return cell


FAULTS: Sequence[Callable[[bytes, int, bytes], bytes]] = (
    _cut, _flip, _cell, _cell, _drop_line, _double_line, _insert, _mark, _replace,
)  # fmt: skip

faults = st.lists(
    st.tuples(st.sampled_from(FAULTS), st.floats(0, 1, exclude_max=True), st.integers(0, len(CELLS) - 1)),
    min_size=1,
    max_size=3,
)


def faulty(content: bytes, planted: Sequence[tuple[Callable[[bytes, int, bytes], bytes], float, int]]) -> bytes:
    for fault, place, cell in planted:
        content = fault(content, int(place * len(content)), CELLS[cell])
    return content


def try_all(check: Callable[[Any], None], what: st.SearchStrategy[Any], examples: int) -> None:
    """Try `check` on so many examples, the same ones each time."""
    how = settings(max_examples=examples, derandomize=True, deadline=None, database=None,
                   phases=[Phase.generate], suppress_health_check=list(HealthCheck))  # fmt: skip
    how(given(what)(check))()

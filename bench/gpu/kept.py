"""What a GPU run has measured so far, as the files of its archive hold it. Imports no torch."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cli import last_line
from bench.gpu.archive import replaced
from bench.records import store
from bench.records.record import Record, from_dict, stamped

LOG_BYTES = 256 << 10  # of each part's log, its end


@dataclass
class Kept:
    """All that the parts have handed over, in the order in which they did. `changed` is called after each message."""

    environment: Mapping[str, Any]
    run: str = ""
    folder: Path | None = None  # where the parts find each other's files
    changed: Callable[[Kept], None] = lambda kept: None
    records: dict[str, dict[str, list[Record]]] = field(default_factory=dict)  # by part, then key
    blocks: list[dict[str, Any]] = field(default_factory=list)
    tests: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by part
    planned: dict[str, list[str]] = field(default_factory=dict)  # the tests that are to run, by part
    dropped: dict[str, list[str]] = field(default_factory=dict)
    cases: dict[str, int] = field(default_factory=dict)  # how many a part has begun
    files: dict[str, str] = field(default_factory=dict)
    logs: dict[str, bytearray] = field(default_factory=dict)
    parts: list[dict[str, Any]] = field(default_factory=list)  # how each ended: part, code, seconds, how
    summary: str = ""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def take(self, part: str, message: Mapping[str, Any]) -> None:
        """Keep one message of a part."""
        with self.lock:
            if "records" in message:
                rows = [stamped(from_dict(row), self.environment, self.run) for row in message["records"]]
                keyed = self.records.setdefault(part, {})
                keyed[message.get("key") or str(len(keyed))] = rows
            if "block" in message:
                self.blocks.append({"part": part, **message["block"]})
            if "test" in message:
                self.tests.setdefault(part, []).append(message["test"])
            if "planned" in message:
                self.planned[part] = message["planned"]
            if "dropped" in message:
                self.dropped.setdefault(part, []).append(message["dropped"])
            if "case" in message:
                self.cases[part] = message["case"]
            if "file" in message:
                self._file(part, message["file"], message["text"])
            if message.keys() - {"began", "case"}:
                self.changed(self)

    def _file(self, part: str, name: str, text: str) -> None:
        self.files[name] = text
        if self.folder is not None:
            try:
                replaced(self.folder / name, text.encode())
            except OSError as error:
                self.dropped.setdefault(part, []).append(f"{name} for later parts ({error.strerror})")

    def log(self, part: str, text: bytes) -> None:
        """Keep what a part printed; it is written with the next message."""
        with self.lock:
            log = self.logs.setdefault(part, bytearray())
            log += text
            del log[:-LOG_BYTES]

    def end(self, part: str, code: int, seconds: float, how: str) -> None:
        """Keep how a part ended."""
        with self.lock:
            self.parts.append({"part": part, "code": code, "seconds": round(seconds, 1), "how": how})
            self.changed(self)

    def of(self, part: str) -> list[Record]:
        """The records of a part."""
        return [record for rows in self.records.get(part, {}).values() for record in rows]

    def last_line(self, part: str) -> str:
        """The last line that a part printed."""
        return last_line(self.logs.get(part, bytearray()).decode(errors="replace"), "it said nothing")[:200]

    @property
    def measured(self) -> bool:
        """Whether there is anything that was timed."""
        return bool(self.blocks) or any(r.value is not None for part in self.records for r in self.of(part))

    def texts(self) -> dict[str, str]:
        """The files of the archive."""
        rows: dict[str, list[Any]] = {
            "parts.jsonl": self.parts,
            "blocks.jsonl": self.blocks,
            "tests.jsonl": [{"part": part, **test} for part, tests in self.tests.items() for test in tests],
            "planned.jsonl": [{"part": part, "tests": tests} for part, tests in self.planned.items()],
            "dropped.jsonl": [{"part": part, "what": one} for part, what in self.dropped.items() for one in what],
        }
        with self.lock:
            return {
                **({"summary.md": self.summary} if self.summary else {}),
                "environment.json": json.dumps({"run": self.run, "environment": dict(self.environment)}, indent=1),
                **{f"{part}.csv": store.csv_of(self.of(part)) for part in self.records},
                **{name: "".join(json.dumps(row) + "\n" for row in lines) for name, lines in rows.items() if lines},
                **self.files,
                **{f"{part}.log": log.decode(errors="replace") for part, log in self.logs.items()},
            }


def kept_in(texts: Mapping[str, str], folder: Path) -> Kept:
    """What the files of an archive hold, unpacked in `folder`.

    Raises:
        BadInput: if a file of records is damaged.
    """
    known = json.loads(texts.get("environment.json", "{}"))
    kept = Kept(known.get("environment", {}), known.get("run", ""))
    for name, text in texts.items():
        stem, _, suffix = name.rpartition(".")
        if suffix == "csv":
            (folder / name).write_text(text, encoding="utf-8")
            kept.records[stem] = {"": store.read(folder / name)}
        elif suffix == "jsonl":
            _lines(kept, stem, [json.loads(line) for line in text.splitlines()])
        elif suffix == "log":
            kept.logs[stem] = bytearray(text.encode())
    return kept


def _lines(kept: Kept, what: str, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if what in ("parts", "blocks"):
            getattr(kept, what).append(row)
        elif what == "tests":
            kept.tests.setdefault(row.pop("part"), []).append(row)
        elif what == "planned":
            kept.planned[row["part"]] = row["tests"]
        elif what == "dropped":
            kept.dropped.setdefault(row["part"], []).append(row["what"])

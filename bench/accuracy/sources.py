"""Where encoded images come from: a folder, a tar, Parquet or Arrow files; each gives bytes by index, anywhere."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from bench.cli import BadInput
from bench.evaluation.files import (
    EXTENSIONS,
    HIDDEN,
    LeftOut,
    Listing,
    is_hidden,
    listing,
    natural_key,
    refuse_repeated,
)

TABLES = (".parquet", ".arrow")


class Source(Protocol):
    """Encoded images: their names (with `/`), sizes, and labels where the files hold them."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def sizes(self) -> Sequence[int]:
        """In bytes; -1 where only reading the image would tell."""
        ...

    @property
    def labels(self) -> Sequence[int] | None: ...

    @property
    def folders(self) -> Sequence[str]:
        """All folders, those without images too."""
        ...

    @property
    def left_out(self) -> LeftOut: ...

    def read(self, i: int) -> bytes: ...


class Folder:
    """All image files below a folder, links followed, in timm's order."""

    labels: Sequence[int] | None = None

    def __init__(self, root: Path, below: Listing | None = None) -> None:
        self.root = root
        below = below or listing(root)
        self.names = sorted(below.images(), key=natural_key)
        self.folders, self.left_out = below.folders, below.left_out
        paths = [root / name for name in self.names]
        self.sizes = [path.stat().st_size if path.exists() else -1 for path in paths]

    def read(self, i: int) -> bytes:
        return (self.root / self.names[i]).read_bytes()


class Tar:
    """The image files in an uncompressed tar, read at their places."""

    labels: Sequence[int] | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with tarfile.open(path, "r:") as archive:
                entries = [(m.name.removeprefix("./"), m) for m in archive if m.name != "."]
                with path.open("rb") as file:
                    file.seek(archive.offset)
                    if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:  # tarfile ends silently there
                        raise BadInput(f"--data {path}: it is cut short or damaged after {len(entries)} entries")
        except (OSError, tarfile.TarError) as error:
            raise BadInput(f"--data {path}: no uncompressed tar: {error}") from error
        refuse_repeated(f"--data {path}", (name for name, m in entries if m.isfile()))
        listed = dict(entries)
        below = Listing()
        for name, m in listed.items():
            if any(is_hidden(part) for part in PurePosixPath(name).parts):
                below.leave_out(HIDDEN, name)
            elif m.isdir():
                below.folders.append(name)
            elif m.isfile():
                below.files.append(name)
            else:
                below.leave_out("no regular file", name)
        self.names = sorted(below.images(), key=natural_key)
        members = [listed[name] for name in self.names]
        above = {parent.as_posix() for name in self.names for parent in PurePosixPath(name).parents}
        self.folders, self.left_out = sorted({*below.folders, *above} - {"."}), below.left_out
        self.sizes = [m.size for m in members]
        self.offsets = [m.offset_data for m in members]

    def read(self, i: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offsets[i])
            return file.read(self.sizes[i])


class Columns:
    """Parquet or Arrow files as Hugging Face's data sets write them: a column `image` {bytes, path} and one `label`."""

    folders: Sequence[str] = ()

    def __init__(self, files: Sequence[Path], left_out: LeftOut | None = None) -> None:
        self.files, self.left_out = list(files), left_out or {}
        self.names: list[str] = []
        self.labels: list[int] = []
        self._places: list[tuple[int, int, int]] = []  # file, row group or record batch, row in it
        self._group: tuple[tuple[int, int], Any] | None = None
        for f, path in enumerate(self.files):
            for g in range(self._groups(path)):
                table = self._read(path, g, names_only=True)
                with _arrow_errors(path):
                    table.validate(full=True)  # else a damaged offset ends the process
                absent = [name for name in ("image", "label") if name not in table.schema.names]
                if absent:
                    raise BadInput(f"--data {path}: there is no column {absent[0]!r} in it")
                paths = [row if isinstance(row, str) else (row or {}).get("path") for row in table["image"].to_pylist()]
                for r, (name, label) in enumerate(zip(paths, table["label"].to_pylist(), strict=True)):
                    self.names.append(name or f"{path.name}/{g}-{r}")
                    if not isinstance(label, int | None):
                        raise BadInput(f"--data {path}: the label of {self.names[-1]} is {label!r}, no whole number")
                    self.labels.append(-1 if label is None else label)
                    self._places.append((f, g, r))
        self.sizes = [-1] * len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_group": None}

    def _groups(self, path: Path) -> int:
        with _arrow_errors(path):
            if path.suffix == ".parquet":
                import pyarrow.parquet as pq

                return int(pq.ParquetFile(path).num_row_groups)
            return len(_record_batches(path))

    def _read(self, path: Path, group: int, names_only: bool = False) -> Any:
        with _arrow_errors(path):
            if path.suffix == ".parquet":
                import pyarrow.parquet as pq

                columns = ["image.path", "label"] if names_only else ["image.bytes"]
                return pq.ParquetFile(path).read_row_group(group, columns=columns)
            return _record_batches(path)[group]

    def read(self, i: int) -> bytes:
        f, g, r = self._places[i]
        if self._group is None or self._group[0] != (f, g):  # images come in order: the group is likely the next's too
            self._group = ((f, g), self._read(self.files[f], g)["image"])
        return bytes(self._group[1][r].as_py()["bytes"])


def _record_batches(path: Path) -> list[Any]:
    """An Arrow file's batches, mapped rather than read: a stream (Hugging Face's cache) or the file format."""
    import pyarrow as pa

    mapped = pa.memory_map(str(path))
    try:
        reader = pa.ipc.open_file(mapped)
        return [reader.get_batch(i) for i in range(reader.num_record_batches)]
    except pa.ArrowInvalid:
        mapped.seek(0)
        return list(pa.ipc.open_stream(mapped))


@contextmanager
def _arrow_errors(path: Path) -> Iterator[None]:
    """Within it, a file that is no such table, or lacks the columns, is bad input."""
    try:
        yield
    except Exception as error:  # Arrow raises its own kinds, and Python's for what it cannot decode
        if not type(error).__module__.startswith("pyarrow") and not isinstance(error, OSError | ValueError | KeyError):
            raise
        raise BadInput(f"--data {path}: {str(error).splitlines()[0]}") from error


def open_source(path: Path) -> Source:
    """The images at `path`: a folder of files, a .tar, or Parquet/Arrow files (one, or a folder of them).

    Raises:
        BadInput: if there is nothing there that holds images.
    """
    if not path.exists():
        raise BadInput(f"--data {path}: there is no such file or folder")
    if path.is_dir():
        below = listing(path)
        tables = [name for name in below.files if Path(name).suffix in TABLES]
        source: Source = _of_tables(path, tables, below) if tables else Folder(path, below)
    elif path.suffix in TABLES:
        source = _columns([path], {})
    else:
        source = Tar(path)
    if not source.names:
        raise BadInput(
            f"--data {path}: no images there ({', '.join(EXTENSIONS)}, .parquet, .arrow, or a .tar of images)"
        )
    return source


def _of_tables(path: Path, tables: Sequence[str], below: Listing) -> Columns:
    """The tables of the validation set or of the test set in a folder, or all, where none is named so."""
    chosen = {split: [name for name in tables if Path(name).name.startswith(split)] for split in ("val", "test")}
    if all(chosen.values()):
        raise BadInput(
            f"--data {path}: it has {chosen['val'][0]} and {chosen['test'][0]}: give the files of one set in a folder"
        )
    taken = chosen["val"] or chosen["test"] or tables
    for name in sorted(set(below.files) - set(taken)):
        below.leave_out("no table of the set", name)
    return _columns([path / name for name in taken], below.left_out)


def _columns(files: Sequence[Path], left_out: LeftOut) -> Columns:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise BadInput(f"--data {files[0]}: reading it needs pyarrow: pip install pyarrow") from error
    return Columns(files, left_out)

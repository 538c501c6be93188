"""Where encoded images come from: a folder, a tar, Parquet or Arrow files; each gives bytes by index, anywhere."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from bench.accuracy.labels import natural_key
from bench.cli import BadInput

EXTENSIONS = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff")


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

    def read(self, i: int) -> bytes: ...


def is_image(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith("._")


class Folder:
    """All image files below a folder, links followed, in timm's order."""

    labels: Sequence[int] | None = None

    def __init__(self, root: Path) -> None:
        self.root = root
        images = []
        for folder, _, files in os.walk(root, followlinks=True):
            relative = Path(folder).relative_to(root)
            images += [((relative / file).as_posix(), Path(folder, file)) for file in files if is_image(file)]
        images.sort(key=lambda item: natural_key(item[0]))
        self.names = [name for name, _ in images]
        self.sizes = [path.stat().st_size if path.exists() else -1 for _, path in images]

    def read(self, i: int) -> bytes:
        return (self.root / self.names[i]).read_bytes()


class Tar:
    """The image files in an uncompressed tar, read at their places."""

    labels: Sequence[int] | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with tarfile.open(path, "r:") as archive:
                members = [m for m in archive if m.isfile() and is_image(m.name)]
        except tarfile.TarError as error:
            raise BadInput(f"--data {path}: no uncompressed tar: {error}") from error
        members.sort(key=lambda m: natural_key(m.name))
        self.names = [m.name.removeprefix("./") for m in members]
        self.sizes = [m.size for m in members]
        self.offsets = [m.offset_data for m in members]

    def read(self, i: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offsets[i])
            return file.read(self.sizes[i])


class Columns:
    """Parquet or Arrow files as Hugging Face's data sets write them: a column `image` {bytes, path} and one `label`."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self.names: list[str] = []
        self.labels: list[int] = []
        self._places: list[tuple[int, int, int]] = []  # file, row group or record batch, row in it
        self._group: tuple[tuple[int, int], Any] | None = None
        for f, path in enumerate(self.files):
            for g in range(self._groups(path)):
                table = self._read(path, g, names_only=True)
                absent = [name for name in ("image", "label") if name not in table.schema.names]
                if absent:
                    raise BadInput(f"--data {path}: there is no column {absent[0]!r} in it")
                paths = [row if isinstance(row, str) else (row or {}).get("path") for row in table["image"].to_pylist()]
                for r, (name, label) in enumerate(zip(paths, table["label"].to_pylist(), strict=True)):
                    self.names.append(name or f"{path.name}/{g}-{r}")
                    self.labels.append(int(label))
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


class _arrow_errors:
    """Within it, a file that is no such table, or lacks the columns, is bad input."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is not None and kind.__module__.startswith("pyarrow"):
            raise BadInput(f"--data {self.path}: {str(error).splitlines()[0]}") from error


def open_source(path: Path) -> Source:
    """The images at `path`: a folder of files, a .tar, or Parquet/Arrow files (one, or a folder of them).

    Raises:
        BadInput: if there is nothing there that holds images.
    """
    if not path.exists():
        raise BadInput(f"--data {path}: there is no such file or folder")
    if path.is_dir():
        tables = sorted(p for p in path.rglob("*") if p.suffix in (".parquet", ".arrow"))
        tables = [p for p in tables if p.name.startswith(("val", "test"))] or tables
        source: Source = _columns(tables) if tables else Folder(path)
    elif path.suffix in (".parquet", ".arrow"):
        source = _columns([path])
    else:
        source = Tar(path)
    if not source.names:
        raise BadInput(
            f"--data {path}: no images there ({', '.join(EXTENSIONS)}, .parquet, .arrow, or a .tar of images)"
        )
    return source


def _columns(files: Sequence[Path]) -> Columns:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise BadInput(f"--data {files[0]}: reading it needs pyarrow: pip install pyarrow") from error
    return Columns(files)

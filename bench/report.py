"""`python -m bench.report`: tables, a page and figures from the records that this checkout has."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench import cli
from bench.cli import BadInput, Parser
from bench.files import read_text
from bench.paths import REPOSITORY
from bench.progress import progress

if TYPE_CHECKING:
    from bench.progress import Progress
    from bench.reporting.data import Report

PARTS = {"results": 0.5, "readme": 1.0, "page": 5.0, "figures": 5.0, "latex": 0.5}
"""The parts, and about how many seconds each takes."""
READING = "records"
READING_SECONDS = 0.5

DESCRIPTION = """Make results/README.md, the README's generated table and figure, the page report/index.html, figures
(PNG, SVG, PDF) and LaTeX tables from all records."""

EPILOG = """Exit codes: 0 written, or up to date; 1 (--check) something is out of date; 2 bad input."""


def parser() -> Parser:
    p = Parser(prog="bench.report", description=DESCRIPTION, epilog=EPILOG)
    add = p.add_argument
    add("--results", type=Path, metavar="DIR", help="folder with a folder of records for each machine (default: ours)")
    add("--output", type=Path, default=Path("report"), metavar="DIR", help="where page, figures and LaTeX go (report/)")
    add("--readme", type=Path, metavar="FILE", help="the README with the markers (default: beside the results folder)")
    add("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    add("--check", action="store_true", help="write nothing; fail if results/README.md or the README is out of date")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from bench.records.store import machines, results_folder
    from bench.reporting.data import gather

    results = args.results or results_folder()
    if not results.is_dir():
        raise BadInput(f"there is no folder {results}: give --results one that holds <machine>/*.csv")
    readme = args.readme or (REPOSITORY / "README.md" if not args.results else results.parent / "README.md")
    if args.check:
        return check(gather(results), results, readme)
    if not machines(results):
        text = f"no records below {results}: python -m bench.compare --models overlock_t convnext_b --save makes some"
        print(f"bench.report: {text}", file=sys.stderr)
    if {"page", "figures", "readme", "results"} & set(args.parts):
        from bench.reporting.charts.draw import check_installed

        check_installed()
    with progress() as bar:
        bar.total({READING: (1, READING_SECONDS)} | {part: (1, PARTS[part]) for part in dict.fromkeys(args.parts)})
        bar.begun("reading the records")
        report = gather(results)
        bar.done(READING)
        written = write(report, args.parts, results, readme, args.output, bar)
    for path in dict.fromkeys(written):
        print(path)
    return cli.OK


def write(report: Report, parts: Sequence[str], results: Path, readme: Path, output: Path, bar: Progress) -> list[Path]:
    """Write the parts; returns what was written.

    Raises:
        BadInput: if something cannot be written.
    """
    from bench.reporting import readme as generated

    written: list[Path] = []
    if "readme" in parts and readme.is_file():
        generated.update(readme, report)  # which may be refused: before anything is written
    try:
        for part in (part for part in PARTS if part in parts):
            bar.begun(part)
            written += _part(part, report, results, readme, output)
            bar.done(part)
    except OSError as error:
        raise BadInput(f"cannot write {error.filename}: {error.strerror}; give --output another folder") from error
    return written


def _part(part: str, report: Report, results: Path, readme: Path, output: Path) -> list[Path]:
    """Write one part; returns what was written."""
    from bench.reporting import readme as generated
    from bench.reporting.results import latex, results_readme

    if part == "results":
        return [_write(results / "README.md", results_readme(report)), *_figure(report, results)]
    if part == "readme":
        if not readme.is_file():
            return []
        return [_write(readme, generated.update(readme, report)), *_figure(report, results)]
    if part == "page":
        from bench.reporting.page.html import page

        return [_write(output / "index.html", page(report))]
    if part == "figures":
        from bench.reporting.charts.draw import figures

        return figures(report, output / "figures")
    return latex(report, output / "latex")


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cli.write_whole(path, text)
    return path


def _figure(report: Report, results: Path) -> list[Path]:
    """The figure that the README and the results show: a panel for MACs, and one for each machine that was timed."""
    from bench.reporting.charts.accuracy import figure
    from bench.reporting.charts.draw import save
    from bench.reporting.readme import headline

    spec = figure(report) if headline(report) else None
    return save(spec, results / "figure", ("svg",), report.fingerprint) if spec else []


def check(report: Report, results: Path, readme: Path) -> int:
    """Whether the generated files are those of the present records; says which are not."""
    from bench.reporting import readme as generated
    from bench.reporting.results import results_readme

    stale = []
    present = results / "README.md"
    mend = "python -m bench.report writes it; give --readme another file, or mend this one"
    if not present.is_file() or read_text(present, mend) != results_readme(report):
        stale.append(str(present))
    if readme.is_file():
        text = read_text(readme, mend)
        if text != generated.update(readme, report):
            stale.append(str(readme))
    figure = results / Path(generated.FIGURE_FILE).name
    if generated.headline(report) and _fingerprint(figure) != report.fingerprint:
        stale.append(str(figure))
    if stale:
        print(f"bench.report: out of date: {', '.join(stale)}; run python -m bench.report", file=sys.stderr)
        return cli.REGRESSION
    print("up to date")
    return cli.OK


def _fingerprint(figure: Path) -> str:
    """The fingerprint of the data that an SVG was drawn of."""
    if not figure.is_file():
        return ""
    match = re.search(r"<desc>(\w+)</desc>", figure.read_text(encoding="utf-8", errors="replace"))
    return match[1] if match else ""


if __name__ == "__main__":
    cli.run("report", main)

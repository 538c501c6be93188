"""`python -m bench.compare`: cost, speed and memory of models on this machine, beside what is published."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import cli
from bench.cli import BadInput, Parser
from bench.measure.job import UNITS, Settings
from bench.models import FORMS, MODELS, Entry, entry_for_timm, find

if TYPE_CHECKING:
    from bench.measure.campaign import Campaign

METRICS = tuple(UNITS)
FORMATS = ("table", "markdown", "latex", "csv", "json")
SUFFIXES = {".json": "json", ".csv": "csv", ".md": "markdown", ".tex": "latex"}

DESCRIPTION = f"""Compare models on this machine: parameters, MACs, throughput and memory, with the published figures
beside them. Models: {", ".join(MODELS)}; all (these); or any timm model name."""

EPILOG = """A model without re-parameterisation has one form, listed as deploy. Exit codes: 0 measured; 2 bad input, or
nothing could be measured; 130 stopped by Ctrl-C (what was measured is printed)."""


def parser() -> Parser:
    p = Parser(prog="bench.compare", description=DESCRIPTION, epilog=EPILOG)
    add = p.add_argument
    add("--models", nargs="+", required=True, metavar="MODEL", help="short names, timm names, or all")
    add("--baseline", metavar="MODEL", help="model that ratios refer to (default: the last of --models)")
    add("--resolutions", nargs="+", type=cli.resolution, default=[(224, 224)], metavar="SIZE", help="224 or HxW")
    add("--metrics", nargs="+", choices=METRICS, default=list(METRICS), metavar="METRIC", help=", ".join(METRICS))
    add("--form", choices=(*FORMS, "both"), default="deploy", help="re-parameterised (default), as trained, or both")
    add("--device", type=cli.device, default="auto", help="auto (default), cpu, cuda, cuda:N, mps")
    add("--dtype", choices=("float32", "tf32", "bfloat16", "float16"), default="float32", help="weights and inputs")
    add("--layout", choices=("auto", "channels_last", "channels_first"), default="auto", help="auto: the faster")
    add("--batch-size", type=cli.positive_or_auto, default="auto", metavar="N", help="auto: by device and resolution")
    add("--threads", type=cli.positive, metavar="N", help="CPU threads (default: the physical cores available)")
    add("--backend", default="auto", metavar="NAME", help="implementation of ContMix (default: auto)")
    add("--weights", nargs="+", default=[], metavar="MODEL=PATH", help="checkpoints (default: random weights)")
    add("--quick", action="store_true", help="fewer and shorter blocks: a rough figure")
    add("--format", choices=FORMATS, help="default: table, or by the suffix of --output")
    add("--output", type=Path, metavar="FILE", help="write there; the table is printed as well")
    add("--sources", action="store_true", help="list the sources of the published figures")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    entries = chosen(args.models)
    names = [entry.name for entry in entries]
    baseline = named(args.baseline, "--baseline", names) if args.baseline else names[-1]
    weights = dict(checkpoint(text, names) for text in args.weights)
    style = args.format or SUFFIXES.get(args.output.suffix if args.output else "", "table")
    if args.output:
        cli.check_writable(args.output)
    sizes = list(dict.fromkeys(args.resolutions))
    metrics = [metric for metric in METRICS if metric in args.metrics]
    print(f"{', '.join(names)} at {', '.join(map(cli.resolution_name, sizes))}: {', '.join(metrics)}", file=sys.stderr)

    from bench.measure.campaign import Campaign
    from bench.measure.environment import physical_cores

    settings = Settings(
        device=args.device,
        dtype=args.dtype,
        layout=args.layout,
        batch=args.batch_size,
        threads=args.threads or physical_cores(),
        backend=args.backend,
        weights=weights,
        quick=args.quick,
    )
    with progress() as bar:
        campaign = Campaign(entries, sizes, args.form, metrics, settings, bar.begun, bar.done)
        bar.total(campaign.jobs())
        try:
            campaign.measure()
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
    return report(campaign, baseline, style, args.output, args.sources, interrupted)


def chosen(names: Sequence[str]) -> list[Entry]:
    """The entries asked for, each once. A name that may be timm's is left for the process that imports it to judge."""
    entries: dict[str, Entry] = {}
    for name in names:
        for entry in MODELS.values() if name == "all" else (find(name) or entry_for_timm(name),):
            entries.setdefault(entry.name, entry)
    return list(entries.values())


def named(name: str, option: str, names: Sequence[str]) -> str:
    """The short name of one of the models compared."""
    entry = find(name)
    short = entry.name if entry else name
    if short not in names:
        raise BadInput(f"{option} {name}: not among --models {' '.join(names)}")
    return short


def checkpoint(text: str, names: Sequence[str]) -> tuple[str, str]:
    """`MODEL=PATH` -> short name and path of a file that exists."""
    name, sign, path = text.partition("=")
    if not sign or not path:
        raise BadInput(f"--weights {text}: give MODEL=PATH")
    short = named(name, "--weights", names)
    if not Path(path).is_file():
        raise BadInput(f"--weights {text}: there is no file {path}")
    return short, path


class Progress:
    """A progress bar on stderr, on a terminal only."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._bar: Any = tqdm(
            total=0, file=sys.stderr, disable=not sys.stderr.isatty(), leave=False, dynamic_ncols=True, unit="job"
        )

    def total(self, jobs: int) -> None:
        self._bar.reset(total=jobs)

    def begun(self, what: str) -> None:
        self._bar.set_description(what)

    def done(self) -> None:
        self._bar.update(1)

    def close(self) -> None:
        self._bar.close()


@contextmanager
def progress() -> Iterator[Progress]:
    bar = Progress()
    try:
        yield bar
    finally:
        bar.close()


def report(campaign: Campaign, baseline: str, style: str, output: Path | None, sources: bool, interrupted: bool) -> int:
    """Print, and write to `output`, what is known; returns the exit code."""
    from bench import records as rec
    from bench import tables
    from bench.measure.environment import describe

    records = campaign.records
    if records:
        entries = {entry.name: entry for entry in campaign.entries}
        frame = tables.wide(records, entries, baseline)

        def text(style: str) -> str:
            if style == "json":
                return rec.to_json(campaign.environment, records)
            if style == "csv":
                return tables.render(frame, style)
            machine = describe(campaign.environment) if campaign.environment else ""
            below = tables.below(frame, records, machine, baseline, sources, entries)
            return "\n".join([tables.render(frame, style), "", *tables.comment(below, style)])

        print(text("table" if output else style))
        if output:
            try:
                output.write_text(text(style) + "\n", encoding="utf-8")
            except OSError as error:
                raise BadInput(f"cannot write {output}: {error.strerror}") from error
            print(f"wrote {output}", file=sys.stderr)
    if interrupted:
        print(f"interrupted: {len(records)} figures were measured", file=sys.stderr)
        return cli.INTERRUPTED
    if not any(record.measured for record in records):
        why = "; ".join(dict.fromkeys(reason for record in records for reason in record.reasons))
        raise BadInput(f"nothing could be measured: {why}")
    return cli.OK


if __name__ == "__main__":
    cli.run("compare", main)

"""`python -m bench.claims`: which published statements hold here, by the records that this checkout has."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench import cli
from bench.cli import BadInput, Parser
from bench.evidence.measure import KINDS

if TYPE_CHECKING:
    from bench.evidence.statement import Statement

DESCRIPTION = """Judge published statements by records: what abstracts and READMEs say in words, and every published
figure of parameters, FLOPs, top-1, AP and mIoU. Nothing is reproduced by quoting: without a record a statement is NOT
MEASURED."""

EPILOG = """One rule for printed figures: REPRODUCED prints as published, by our convention of counting or by a named
one that gives more than half of the source's table; WITHIN TOLERANCE is within 1 % (multiply-adds) or 0.03 points
(accuracies) of what prints so; else NOT REPRODUCED. Statements in words: REPRODUCED or REFUTED; UNDECIDED where noise
reaches over the border; NOT JUDGED where a premise fails. CONTRADICTORY SOURCES comes with what was measured. Questions
that nobody stated an answer to are answered YES or NO. NOT MEASURED and NOT MEASURABLE are counted, and shown by --all.
Exit codes: 0; with --check 1 if a statement is refuted or not reproduced, 3 if one is undecided and none fails; 2 bad
input, or nothing is measured."""


def parser() -> Parser:
    p = Parser(prog="bench.claims", description=DESCRIPTION, epilog=EPILOG)
    add = p.add_argument
    add("--results", type=Path, metavar="DIR", help="folder with a folder of records for each machine (default: ours)")
    add("--records", nargs="+", type=Path, metavar="FILE", help="judge by these files or folders instead")
    add("--measure", nargs="*", choices=KINDS, metavar="WHAT",
        help="first measure what needs neither weights nor data, and keep it: cost (of classifiers), dense (of "
        "detectors and segmentation models), parity (of both forms of OverLoCK); all by default")  # fmt: skip
    add("--models", nargs="+", default=[], metavar="MODEL", help="statements that speak of these (names, patterns)")
    add("--only", nargs="+", default=[], metavar="WORD", help="only statements whose id or text holds one of these")
    add("--all", action="store_true", help="show everything to people: also what is reproduced, or not measured")
    add("--check", action="store_true", help="exit with 1 if a statement is refuted or not reproduced, 3 if undecided")
    add("--format", choices=cli.FORMATS, help="default: table, or by the suffix of --output")
    add("--output", type=Path, metavar="FILE", help="write there instead of printing")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from bench.evidence import evidence, show
    from bench.evidence.finding import FAILED, Verdict
    from bench.evidence.judge import judge_all
    from bench.records.store import results_folder

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    statements = chosen(args.models, args.only)
    style = cli.style_of(args)
    if args.output:
        cli.check_writable(args.output)
    results = args.results or results_folder()
    if args.measure is not None:
        from bench.evidence.measure import measure

        if args.records:
            raise BadInput("--measure keeps records under --results: give it without --records")
        measure(statements, args.measure or KINDS, {s.model for x in statements for s in x.subjects}, results)
    known = evidence.load_files(args.records) if args.records else evidence.load(results)
    findings = judge_all(statements, known)
    if style == "latex":
        from bench.reporting.results import claims_latex, notable

        text = claims_latex(findings if args.all else notable(findings))
    else:
        text = show.text_of(findings, style, args.all)
    if args.output:
        cli.write(args.output, text)
        print(show.summary(findings), file=sys.stderr)
    else:
        print(text)
    if not any(finding.evidence for finding in findings):
        where = "in the files given" if args.records else f"below {results}"
        raise BadInput(
            f"no record {where} bears on these statements: python -m bench.claims --measure makes those of cost, "
            "python -m bench.compare --models ... --save those of speed"
        )
    verdicts = {finding.verdict for finding in findings if not finding.statement.question}
    if not args.check:
        return cli.OK
    if verdicts & {*FAILED}:
        return cli.REGRESSION
    return cli.UNDECIDED if Verdict.UNDECIDED in verdicts else cli.OK


def chosen(models: Sequence[str], words: Sequence[str]) -> list[Statement]:
    """The statements asked for.

    Raises:
        BadInput: if there are none.
    """
    from bench.evidence.everything import statements
    from bench.models import chosen as models_chosen

    names = {entry.name for entry in models_chosen(models)}
    chosen = [s for s in statements() if not names or names & {x.model for x in s.subjects}]
    chosen = [s for s in chosen if not words or any(word.lower() in f"{s.id} {s.text}".lower() for word in words)]
    if not chosen:
        asked = [
            *(f"--models {' '.join(models)}" for _ in models[:1]),
            *(f"--only {' '.join(words)}" for _ in words[:1]),
        ]
        raise BadInput(f"{' '.join(asked)}: no statement speaks of that; python -m bench.claims --all lists them")
    return chosen


if __name__ == "__main__":
    cli.run("claims", main)

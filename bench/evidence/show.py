"""Findings as text: blocks for people, and tables."""

from __future__ import annotations

import json
import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench import render
from bench.evidence.commands import command
from bench.evidence.evidence import main_counter
from bench.evidence.finding import FOLDED, Finding, Verdict
from bench.evidence.rule import RULE
from bench.evidence.statement import Statement
from bench.published import SCALE, Printed

WIDTH = 110

DIRTY = "(dirty)"
DIRTY_MEANS = f"{DIRTY}: measured from a tree with uncommitted changes, which no commit can repeat."


def number(value: float, like: Printed) -> str:
    """A value in the unit of a printed figure, with one or two digits more than it prints (a ratio with as many)."""
    decimals = like.decimals
    scaled = value / SCALE[like.unit]
    if not like.unit and 0 < abs(scaled) < 1e-2:
        return f"{scaled:.1e}"
    more = 0 if like.unit == "x" and decimals else 1 if like.unit == "G" and decimals else 2
    return f"{scaled:,.{decimals + more}f}{' ' if like.unit else ''}{like.unit}"


def measured(finding: Finding) -> str:
    """The measured value, with its interval where it has one, and the convention by which it is counted where that is
    not the suite's own; empty where nothing was measured."""
    if finding.measured is None:
        return ""
    like = finding.statement.like
    text = number(finding.measured, like)
    if finding.lo is not None and finding.hi is not None:
        text += f" [{number(finding.lo, like).split(' ')[0]}, {number(finding.hi, like).split(' ')[0]}]"
    counted = finding.evidence[0].record if finding.evidence else None
    if counted is not None and not main_counter(counted):
        text += f" ({counted.counter})"
    return f"{text} {DIRTY}" if finding.dirty else text


def difference(finding: Finding) -> str:
    """Measured less published, in its unit and in per cent."""
    like = finding.statement.like
    if finding.difference is None or (finding.statement.accepted is not None and like.unit != "x"):
        return ""
    text = number(finding.difference, like)
    text = text if text.startswith("-") else f"+{text}"
    return text if finding.relative is None else f"{text} ({finding.relative:+.2%})"


def row(finding: Finding) -> dict[str, Any]:
    """A finding for programs."""
    s = finding.statement
    return {
        "id": s.id,
        "verdict": finding.verdict.value,
        "statement": s.text,
        "published": s.published(),
        "measured": finding.measured,
        "lo": finding.lo,
        "hi": finding.hi,
        "difference": finding.difference,
        "relative": finding.relative,
        "unit": {"M": "parameters", "G": "MACs"}.get(s.unit, s.unit),
        "tolerance": s.tolerance,
        "question": s.question,
        "would_change": would_change(finding),
        "dirty": finding.dirty,
        "machine": finding.machine,
        "detail": finding.detail,
        "evidence": "; ".join(map(str, finding.evidence)),
        "command": command(s),
        "sources": "; ".join(dict.fromkeys(figure.source for figure in s.printed)),
        "group": s.group,
    }


def summary(findings: Sequence[Finding]) -> str:
    """How many findings have each verdict, on one line."""
    counts = Counter(finding.verdict for finding in findings)
    return ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict])


def would_change(finding: Finding) -> str:
    """What measurement would give another verdict, in words: of what is not measured, one that contradicts it; empty
    where the sources contradict each other anyway."""
    s, like, verdict = finding.statement, finding.statement.like, finding.verdict
    if s.not_measurable:
        return "a release of the weights that it speaks of"
    if verdict == Verdict.CONTRADICTORY:
        return ""
    if verdict == Verdict.NOT_JUDGED:
        return f"counts by which {' and '.join(premise.text for premise in s.premises)}"
    prints = like.value - like.half, like.value + like.half
    near = prints[0] - like.tolerance, prints[1] + like.tolerance
    beyond = f" by more than {s.noise:g} {s.unit}" if s.noise else ""
    if s.accepted is None and verdict == Verdict.WITHIN_TOLERANCE:
        return f"a value {_inside(prints, finding)}, or one {_outside(near, finding)}"
    if verdict == Verdict.UNDECIDED:
        return f"an interval on one side of {_outside(s.accepted or prints, finding, '', ' and ', '')}"
    if verdict in (Verdict.REFUTED, Verdict.NO, Verdict.NOT_REPRODUCED):
        return f"a value {_inside(s.accepted or near, finding)}{beyond}"
    return f"a value {_outside(s.accepted or (prints if verdict == Verdict.REPRODUCED else near), finding)}{beyond}"


def _ends(interval: tuple[float, float], finding: Finding) -> tuple[str, str]:
    """Both ends in words; empty where there is none, and for a share that cannot be below 0."""
    s = finding.statement
    low, high = (number(end, s.like) if math.isfinite(end) else "" for end in interval)
    return "" if s.unit == "" and interval[0] == 0 else low, high


def _inside(interval: tuple[float, float], finding: Finding) -> str:
    low, high = _ends(interval, finding)
    return " and ".join(filter(None, (low and f"above {low}", high and f"below {high}")))


def _outside(
    interval: tuple[float, float], finding: Finding, below: str = "below ", between: str = " or ", above: str = "above "
) -> str:
    low, high = _ends(interval, finding)
    return between.join(filter(None, (low and f"{below}{low}", high and f"{above}{high}")))


def what_would(finding: Finding) -> str:
    """What `would_change` says, as the beginning of a line."""
    if finding.statement.question:
        return "what would answer no" if finding.verdict == Verdict.NOT_MEASURED else "what would change the answer"
    return "what would refute it" if finding.verdict == Verdict.NOT_MEASURED else "what would change the verdict"


def lines(finding: Finding) -> list[str]:
    """A finding with everything that it rests on, a line each; the first is its heading."""
    s = finding.statement
    figures = ", ".join(filter(None, (measured(finding) and f"measured {measured(finding)}", _published(s))))
    off = difference(finding)
    sources = "; ".join(dict.fromkeys(figure.source for figure in s.printed))
    made = [f"{finding.verdict.value}: {s.text}"]
    if figures or sources:
        figures = f"{figures}, difference {off}" if off else figures
        made.append(". ".join(filter(None, (figures, sources and f"Source: {sources}"))))
    made += [under(finding)] if under(finding) else []
    made += [f"rests on {placed}" for placed in finding.evidence]
    made += [f"{what_would(finding)}: {would_change(finding)}"] if would_change(finding) else []
    made += [f"measure it: {command(s)}"] if command(s) else []
    return made


def under(finding: Finding) -> str:
    """On which machine, under which conditions and by which rule."""
    return ": ".join(filter(None, (finding.machine, finding.detail)))


def _published(statement: Statement) -> str:
    return f"published {statement.published()}" if statement.printed else ""


def block(finding: Finding) -> str:
    """`lines`, wrapped for a terminal."""
    head, *rest = lines(finding)
    wrapped = textwrap.wrap(head, WIDTH)
    for line in rest:
        wrapped += textwrap.wrap(line, WIDTH, initial_indent="    ", subsequent_indent="      ", break_long_words=False,
                                 break_on_hyphens=False)  # fmt: skip
    return "\n".join(wrapped)


HEADINGS = ("verdict", "statement", "published", "measured", "difference", "rests on")


def cells(finding: Finding) -> list[str]:
    """A finding as a row of the short table."""
    places = ", ".join(placed.place for placed in finding.evidence)
    s = finding.statement
    return [finding.verdict.value, s.text, s.published(), measured(finding), difference(finding), places]


def parted(findings: Sequence[Finding]) -> tuple[list[Finding], list[Finding], list[Finding]]:
    """Statements in words, questions that nobody stated an answer to, and printed figures."""
    words = [f for f in findings if f.statement.in_words]
    questions = [f for f in findings if f.statement.question]
    return words, questions, [f for f in findings if f.statement.group.endswith("figures")]


def for_people(findings: Sequence[Finding], everything: bool) -> str:
    """Statements in words and questions as blocks, then figures as a table: those that need attention, or all.

    What is not measured, or cannot be, is only counted, unless everything is asked for.
    """
    words, questions, figures = parted(findings)
    folded = () if everything else FOLDED
    quiet = () if everything else (Verdict.REPRODUCED, *FOLDED)
    shown = [f for f in figures if f.verdict not in quiet]
    parts = []
    for some, title in ((words, "Statements in words"), (questions, "Questions that nobody stated an answer to")):
        seen = [f for f in some if f.verdict not in folded]
        parts += [f"{title}: {summary(some)}{_more(len(some) - len(seen), 'not measured')}."] if some else []
        parts += [block(f) for f in seen]
    if figures:
        hidden = len(figures) - len(shown)
        parts.append(f"Published figures: {summary(figures)}{_more(hidden, 'reproduced or not measured')}.")
        parts.append(f"The rule: {RULE}.")
    if shown:
        parts.append(table(shown, "table"))
        parts += [f"{f.statement.text}: {f.detail}" for f in shown if f.detail and not everything]
    if any(f.dirty for f in findings):
        parts.append(DIRTY_MEANS)
    return "\n\n".join(parts)


def _more(hidden: int, what: str) -> str:
    return f" ({hidden} {what}: left out, --all shows them)" if hidden else ""


def table(findings: Sequence[Finding], style: str) -> str:
    """The short table."""
    return render.table(HEADINGS, [cells(f) for f in findings], style)


def text_of(findings: Sequence[Finding], style: str, everything: bool) -> str:
    """Findings as table, markdown, csv or json."""
    if style == "json":
        return "[\n" + ",\n".join("  " + json.dumps(row(f)) for f in findings) + "\n]"
    if style == "csv":
        return render.as_csv([row(f) for f in findings])
    if style == "table":
        return for_people(findings, everything)
    return f"{table(findings, style)}\n\n{summary(findings)}"

"""Findings as text: blocks for people, and tables in every format."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any

from bench import render
from bench.evidence.commands import command
from bench.evidence.judge import Finding, Verdict, count
from bench.published import SCALE, Printed, distinct

WIDTH = 110


def number(value: float, like: Printed) -> str:
    """A value in the unit of a printed figure, with one or two digits more than it prints."""
    decimals = len(like.text.partition(".")[2])
    scaled = value / SCALE[like.unit]
    if not like.unit and 0 < abs(scaled) < 1e-2:
        return f"{scaled:.1e}"
    return f"{scaled:,.{decimals + (1 if like.unit == 'G' and decimals else 2)}f}{' ' if like.unit else ''}{like.unit}"


def measured(finding: Finding) -> str:
    """The measured value, with its interval where it has one; empty where nothing was measured."""
    if finding.measured is None:
        return ""
    like = distinct(finding.statement.printed)[0]
    text = number(finding.measured, like)
    if finding.lo is not None and finding.hi is not None:
        text += f" [{number(finding.lo, like).split(' ')[0]}, {number(finding.hi, like).split(' ')[0]}]"
    return text


def difference(finding: Finding) -> str:
    """Measured less published, in its unit and in per cent."""
    if finding.difference is None or finding.statement.accepted is not None:
        return ""
    like = distinct(finding.statement.printed)[0]
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
        "machine": finding.machine,
        "detail": finding.detail,
        "evidence": "; ".join(map(str, finding.evidence)),
        "command": command(s),
        "sources": "; ".join(dict.fromkeys(figure.source for figure in s.printed)),
        "group": s.group,
    }


def summary(findings: Sequence[Finding]) -> str:
    """How many findings have each verdict, on one line."""
    return ", ".join(f"{n} {verdict.value}" for verdict, n in count(findings).items())


def block(finding: Finding) -> str:
    """A finding with everything that it rests on, for a terminal."""
    s = finding.statement
    figures = f"published {s.published()}"
    if finding.measured is not None:
        off = difference(finding)
        figures = f"measured {measured(finding)}, {figures}" + (f", difference {off}" if off else "")
    sources = "; ".join(dict.fromkeys(figure.source for figure in s.printed))
    lines = [f"{finding.verdict.value}: {s.text}", f"{figures}. Source: {sources}"]
    lines += [finding.detail] if finding.detail else []
    lines += [f"rests on {placed}" for placed in finding.evidence]
    lines += [f"measure it: {command(s)}"] if command(s) and not finding.evidence else []
    head, *rest = lines
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


def for_people(findings: Sequence[Finding], everything: bool) -> str:
    """Statements in words as blocks, then figures as a table: those that need attention, or all."""
    words = [f for f in findings if not f.statement.group.endswith("figures")]
    figures = [f for f in findings if f.statement.group.endswith("figures")]
    quiet = () if everything else (Verdict.REPRODUCED, Verdict.NOT_MEASURED, Verdict.NOT_MEASURABLE)
    shown = [f for f in figures if f.verdict not in quiet]
    parts = [block(f) for f in words]
    if shown:
        parts.append(table(shown, "table"))
    if figures:
        hidden = len(figures) - len(shown)
        more = f"; {hidden} of them that are reproduced or not measured are left out: --all shows them"
        parts.append(f"Published figures: {summary(figures)}{more if hidden else ''}.")
    if words:
        parts.append(f"Statements in words: {summary(words)}.")
    return "\n\n".join(parts)


def table(findings: Sequence[Finding], style: str) -> str:
    """The short table."""
    return render.table(HEADINGS, [cells(f) for f in findings], style)


def text_of(findings: Sequence[Finding], style: str, everything: bool) -> str:
    """Findings as table, markdown, latex, csv or json."""
    if style == "json":
        return "[\n" + ",\n".join("  " + json.dumps(row(f)) for f in findings) + "\n]"
    if style == "csv":
        return render.as_csv([row(f) for f in findings])
    if style == "table":
        return for_people(findings, everything)
    shown = table(findings, style)
    return f"{shown}\n\n{summary(findings)}" if style == "markdown" else shown

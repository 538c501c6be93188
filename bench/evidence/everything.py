"""All that records are held against: statements in words, questions, and published figures, in this order."""

from __future__ import annotations

from bench.evidence.figures import figure_statements
from bench.evidence.questions import QUESTIONS
from bench.evidence.statement import Statement
from bench.evidence.statements import STATEMENTS


def statements() -> tuple[Statement, ...]:
    """Each with an id of its own."""
    return (*STATEMENTS, *QUESTIONS, *figure_statements())

"""The command that would measure what a statement rests on."""

from __future__ import annotations

from bench.evidence.statement import Statement
from bench.published import Subject
from bench.tasks import COUNTED_AT


def command(statement: Statement) -> str:
    """One line for the shell; empty where nothing in the suite measures it."""
    if statement.not_measurable or any(" " in s.weights for s in statement.subjects if not s.head):
        return ""
    subjects = statement.subjects
    first = subjects[0]
    models = " ".join(dict.fromkeys(subject.model for subject in subjects))
    if first.head == "retinanet":
        return ""
    if any(subject.metric == "training" for subject in subjects):
        return f"python -m bench.compare --models {models} --form train --metrics training --device cuda --save"
    if statement.timed:
        return f"python -m bench.compare --models {models} --save"
    if first.metric == "deploy_difference" or first.cost:
        return _cost(first, models)
    if first.accuracy:
        return _accuracy(subjects, models)
    return ""


def _cost(subject: Subject, models: str) -> str:
    if subject.metric == "deploy_difference":
        return f"python -m bench.claims --measure parity --models {models}"
    task = "" if subject.task == "classification" else f" --task {subject.task}"
    task += f" --head {subject.head}" if subject.task == "detection" else ""
    size = subject.resolution or COUNTED_AT[subject.task]
    return f"python -m bench.compare{task} --models {models} --metrics params macs --resolutions {size} --save"


def _accuracy(subjects: tuple[Subject, ...], models: str) -> str:
    first = subjects[0]
    files = " ".join("FILE" for _ in models.split())
    if first.task == "segmentation":
        multi = " --multi-scale" if first.variant else ""
        return f"python -m bench.ade20k --models {models} --weights {files} --data PATH{multi} --save"
    if first.task == "detection":
        return f"python -m bench.coco --models {models} --weights {files} --head {first.head} --data PATH --save"
    sizes = " ".join(dict.fromkeys(subject.resolution for subject in subjects))
    named = [f"{subject.model}={subject.weights}" for subject in subjects if subject.weights]
    weights = f" --weights {' '.join(named)}" if named else ""
    form = " --form both" if {subject.form for subject in subjects} == {"", "train"} else ""
    return f"python -m bench.top1 --models {models}{weights} --data PATH --resolutions {sizes}{form} --save"

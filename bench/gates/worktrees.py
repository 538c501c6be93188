"""Revisions of the project's repository checked out beside it, for as long as they are measured. Imports no torch."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.cli import BadInput, last_line
from bench.project import Project
from bench.scratch import scratch

PURPOSE = "gate"
"""Of the temporary folder, in its name."""


def git(*args: str, repository: Path) -> str:
    """git's answer in the repository.

    Raises:
        BadInput: with git's own words, if it fails.
    """
    command = ["git", "-C", str(repository), *args]
    try:
        done = subprocess.run(command, capture_output=True, errors="replace", timeout=300, check=False)
    except OSError as error:
        raise BadInput(f"--base needs git, which cannot be run ({error.strerror}): install it") from error
    except subprocess.TimeoutExpired as error:
        raise BadInput(f"git {args[0]} takes more than 300 s in {repository}: is its disk there?") from error
    if done.returncode:
        said = last_line(done.stderr, f"exit code {done.returncode}")
        raise BadInput(f"git {' '.join(args[:2])} failed in {repository}: {said}")
    return done.stdout.strip()


def commit_of(revision: str, repository: Path) -> str:
    """The full hash that a revision names.

    Raises:
        BadInput: if there is no such revision.
    """
    try:
        return git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", repository=repository)
    except BadInput as error:
        raise BadInput(
            f"--base {revision}: {repository} has no such revision: give a branch, a tag or a commit that is fetched"
        ) from error


def uncommitted(project: Project) -> list[str]:
    """Tracked files that differ from the last commit, and untracked ones of the packages that are measured."""
    lines = git("status", "--porcelain", "--untracked-files=no", repository=project.root).splitlines()
    packages = [str(project.root / project.source / package) for package in project.packages]
    lines += git("ls-files", "--others", "--exclude-standard", "--", *packages, repository=project.root).splitlines()
    return [line.strip().split(maxsplit=1)[-1] for line in lines]


@contextmanager
def checked_out(*commits: str, repository: Path) -> Iterator[list[Path]]:
    """A worktree of each commit, in a temporary folder; they are gone after it, whatever happens within."""
    try:
        with scratch(PURPOSE) as folder:
            forget(repository)
            roots = [folder / f"{i}-{commit[:12]}" for i, commit in enumerate(commits)]
            for root, commit in zip(roots, commits, strict=True):
                git("worktree", "add", "--detach", "--quiet", str(root), commit, repository=repository)
            yield roots
    finally:
        forget(repository)


def forget(repository: Path) -> None:
    """Have git forget the worktrees whose temporary folder is gone: those alone, as `prune` takes the user's as well.

    Forced twice, as git leaves a worktree locked if it is killed while it makes it.
    """
    for line in git("worktree", "list", "--porcelain", repository=repository).splitlines():
        root = Path(line.removeprefix("worktree "))
        ours = line.startswith("worktree ") and root.parent.name.startswith(f"bench-{PURPOSE}-")
        if ours and not root.parent.exists():
            git("worktree", "remove", "--force", "--force", str(root), repository=repository)

"""Write the gate's verdicts to a pull request, in one comment that is updated: a section for each tier.

What is in the files was written by the pull request's own code: it is shown as text, without mentions or markers of
ours. Needs `gh` with GH_TOKEN and GH_REPO.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

BOT = "github-actions[bot]"
TITLE = "<!-- bench.gate -->"
SECTIONS = ("exact", "speed", "speed-gpu")
MOST = 60_000 // len(SECTIONS)
"""Characters of a section: a comment may have 65,536."""


def gh(path: str, *more: str, body: str | None = None) -> Any:
    """An answer of GitHub's interface; `body` is sent as the text of a comment."""
    repository = os.environ["GH_REPO"]
    command = ["gh", "api", f"repos/{repository}/{path}", *more]
    if body is not None:
        command += ["--input", "-"]
    sent = None if body is None else json.dumps({"body": body})
    done = subprocess.run(command, input=sent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"gh api {path}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def number_of(head: str, sha: str) -> int | None:
    """The open pull request whose head this commit is; None if it has another one by now."""
    found = gh("pulls", "--method", "GET", "-f", "state=open", "-f", f"head={head}")
    numbers = [int(pull["number"]) for pull in found if pull["head"]["sha"] == sha]
    return numbers[0] if numbers else None


def harmless(text: str) -> str:
    """Text that mentions nobody, hides nothing and ends no section of ours."""
    text = re.sub(r"<!--|-->", "", text).replace("@", "@\u200b")
    if len(text) <= MOST:
        return text
    return text[:MOST].rpartition("\n")[0] + "\n\n(cut; the whole is in the run's summary)"


def updated(before: str, verdicts: dict[str, str]) -> str:
    """The comment with these sections in the place of the earlier ones."""
    parts = {}
    for name in SECTIONS:
        earlier = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", before, re.S)
        text = harmless(verdicts[name]) if name in verdicts else earlier[1] if earlier else ""
        if text.strip():
            parts[name] = f"<!-- {name} -->\n{text.strip()}\n<!-- /{name} -->"
    return "\n\n".join([TITLE, *parts.values()])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--number", type=int)
    parser.add_argument("--head", help="OWNER:BRANCH")
    parser.add_argument("--sha", help="of the head")
    args = parser.parse_args()
    files = {name: args.folder / f"gate-{name}.md" for name in SECTIONS}
    verdicts = {name: path.read_text("utf-8", "replace") for name, path in files.items() if path.is_file()}
    verdicts = {name: text for name, text in verdicts.items() if text.strip()}
    if not verdicts:
        print("nothing was judged")
        return 0
    number = args.number or number_of(args.head, args.sha)
    if number is None:
        print(f"no open pull request has {args.sha} as its head")
        return 0
    comments = gh(f"issues/{number}/comments", "--paginate")
    ours = [c for c in comments if c["user"]["login"] == BOT and c["body"].startswith(TITLE)]
    if ours:
        gh(f"issues/comments/{ours[0]['id']}", "--method", "PATCH", body=updated(ours[0]["body"], verdicts))
    else:
        gh(f"issues/{number}/comments", "--method", "POST", body=updated("", verdicts))
    print(f"commented on {number}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

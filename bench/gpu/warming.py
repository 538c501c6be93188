"""`python -m bench.gpu.warming JSON`: compile one side and call it once, so that its code is in the compiler's cache.

Experimental: it has not run on a GPU.
"""

from __future__ import annotations

import json
import sys

from bench.engine.request import Request
from bench.metrics import TRAINING


def main(argv: list[str]) -> int:
    request = Request.from_dict(json.loads(argv[0]))
    from bench.engine import speed, subject

    ready = subject.prepare(request)
    subject.compiled(ready, request.settings.compile)
    work = speed.Training(ready) if request.kind == TRAINING else speed.Inference(ready)
    print(f"{request.name}: compiled and called in {work.first_call():.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

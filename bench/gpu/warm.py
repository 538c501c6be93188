"""`python -m bench.gpu.warm JSON`: compile one side and call it once, so that its code is in the compiler's cache.

Experimental: it has not run on a GPU.
"""

from __future__ import annotations

import json
import sys

from bench.engine.side import TRAINING, Side


def main(argv: list[str]) -> int:
    request = json.loads(argv[0])
    side = Side.from_dict(request["side"])
    from bench.engine import speed, subject

    training = request["kind"] == TRAINING
    assert isinstance(side.settings.batch, int)
    ready = subject.prepare(side, side.settings.batch, training=training)
    subject.compiled(ready, side.settings.compile)
    work = speed.Training(ready) if training else speed.Inference(ready)
    print(f"{side.name}: compiled and called in {work.first_call():.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

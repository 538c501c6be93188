"""`python -m bench.gpu.warming JSON`: compile one side and call it once, so that its code is in the compiler's cache.

Triton compiles a kernel when it is first launched, one after another: `GPU_RUN_SHARE=1/4` has this process launch the
first of each kernel's four variants alone, while others do theirs. Experimental: it has not run on a GPU.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

from bench.engine.request import Request
from bench.gpu.warm import SHARE
from bench.metrics import TRAINING


@contextmanager
def share(number: int, of: int) -> Iterator[None]:
    """Within it each kernel's variants `number`, `number` + `of`, ..., by their first launch, are launched once each,
    and nothing else: outputs mean nothing."""
    import torch
    from triton.runtime.jit import JITFunction

    run, seen = JITFunction.run, dict[str, list[Any]]()

    def launched(self: Any, *args: Any, **how: Any) -> Any:
        values = [*args, *(how[name] for name in sorted(how) if name != "grid")]
        variant = [(x.dtype, x.data_ptr() % 16) if isinstance(x, torch.Tensor) else x for x in values]
        variants = seen.setdefault(self.__name__, [])
        if variant in variants:
            return None
        variants.append(variant)
        return run(self, *args, **how) if len(variants) % of == number % of else None

    with mock.patch.object(JITFunction, "run", launched):
        yield


def main(argv: list[str]) -> int:
    request = Request.from_dict(json.loads(argv[0]))
    from bench.engine import speed, subject

    own = os.environ.get(SHARE, "")
    ready = subject.prepare(request)
    with share(*map(int, own.split("/"))) if own else nullcontext():
        subject.compiled(ready, "none" if own else request.settings.compile)
        work = speed.Training(ready) if request.kind == TRAINING else speed.Inference(ready)
        seconds = work.first_call()
    print(f"{request.name}: compiled and called in {seconds:.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Each process of torchrun's sums the ranks over all, and writes a file if the sum is right."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
total = torch.tensor([dist.get_rank()])
dist.all_reduce(total)
assert int(total) == sum(range(dist.get_world_size()))
Path(f"{sys.argv[1]}{dist.get_rank()}of{dist.get_world_size()}").touch()
dist.destroy_process_group()

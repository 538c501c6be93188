"""One thread for each of pytest-xdist's workers: torch processes that share cores slow each other down manyfold."""

import glob
import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # compile here: a pool of processes imports torch in each

if not glob.glob("/dev/nvidia[0-9]*"):  # Triton's kernels run in its interpreter, chosen when it is first imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

"""One thread for each of pytest-xdist's workers: torch processes that share cores slow each other down manyfold."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

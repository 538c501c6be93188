"""The parts of `python -m bench.gpu_run`. Experimental: nothing here has run on a GPU yet."""

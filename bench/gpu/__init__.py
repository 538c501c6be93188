"""What `python -m bench.gpu_run` is made of."""

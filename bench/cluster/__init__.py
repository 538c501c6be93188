"""Sweeps over many machines: a grid, its cells, the job that runs one, and the executor that has them run."""

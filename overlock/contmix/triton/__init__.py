"""ContMix on CUDA devices by Triton: the launchers, and kernels for the forward and the backward pass."""

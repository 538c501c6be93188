"""Where time and memory go within a model, and which kernels ran."""

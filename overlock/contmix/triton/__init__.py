"""ContMix's Triton kernels, forward and backward, experimental. `overlock.contmix.fused` launches them."""

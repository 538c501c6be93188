"""Depthwise convolutions: parallel ones with quick gradients, and which implementation each device runs."""

"""Counting: parameters, multiply-adds and activations, on the meta device, by two counters that must agree."""

"""Re-parameterisation and folding for inference."""

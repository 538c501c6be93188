"""What `overlock.deploy` makes of a network: folded blocks, fused convolutions, prepacked weights."""

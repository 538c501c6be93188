"""Training of classifiers by the published recipe: samples, schedule, loop, state on disk."""

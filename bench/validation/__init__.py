"""Tests of the method itself: equal sides, planted effects, and other people's benchmarks beside ours."""

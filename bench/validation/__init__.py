"""Tests of the method itself: equal sides, planted effects, and other peoples benchmarks beside ours."""

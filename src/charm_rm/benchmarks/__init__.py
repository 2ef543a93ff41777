"""Benchmarks of reward models: one file each, from scores or from a reward model."""

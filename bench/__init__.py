"""Measurements: `make bench`. Each figure is a ratio of two things measured in turn in one run."""

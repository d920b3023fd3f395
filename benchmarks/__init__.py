"""Benchmarks: ratios to the limit, the model's own passes.  `make bench`."""

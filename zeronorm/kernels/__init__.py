"""Kernels: how numbers are moved fast, compiled by numba or Triton; they know nothing of attacks."""

"""Compiled kernels (numba, Triton): how numbers are moved fast, and nothing of attacks."""

"""Layers that resist by their own arithmetic: truncation, sparsifying front ends."""

"""Evaluation: plan -> runner -> records.  Files, resuming and clocks live here."""

"""Measures base and tuned on the same held-out rows, with intervals and tests; needs no torch."""

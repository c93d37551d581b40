"""Whole experiments: several runs, or several ways to an answer, on the same rows."""

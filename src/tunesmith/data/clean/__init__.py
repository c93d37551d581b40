"""Cleaning of data files by named steps: what counts as text, the steps, the presets, the run over a file."""

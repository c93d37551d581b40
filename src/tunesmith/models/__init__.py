"""Pretrained models: find, load, ask, merge."""

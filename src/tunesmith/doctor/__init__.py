"""What went wrong in a training run: signs in, findings out. Needs no torch. Read first: `signs.py`."""

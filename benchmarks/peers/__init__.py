"""Other programs doing the same fine-tune; each script runs in an environment of its own."""

"""Rows: read, recognised, split, and made up for the demo."""

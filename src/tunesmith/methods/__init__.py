"""Ways to train a model, one file each, behind the same functions; `METHODS` maps name to module."""

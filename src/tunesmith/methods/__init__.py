"""Ways to train a model, one file each, behind the same functions."""

from tunesmith.methods import lora

METHODS = {"lora": lora}

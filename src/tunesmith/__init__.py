"""Fine-tune large language models on an ordinary machine, and prove the result."""

__version__ = "0.1.0"

"""Memory before launch: rehearsed on tensors without memory, then proved by one real micro-batch."""

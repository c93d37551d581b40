"""The loop: loss, schedule, checkpoints."""

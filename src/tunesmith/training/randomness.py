"""The random generators behind dropout: their states, and a start for each process and step."""

import numpy as np
import torch
from torch import Tensor


def random_states() -> dict[str, Tensor]:
    """State of torch's generator of the CPU, and of the current GPU where there is one."""
    states = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["random.cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states: dict[str, Tensor]) -> None:
    """Put back what `random_states` gave; other keys are not read."""
    torch.set_rng_state(states["random.cpu"])
    if torch.cuda.is_available() and "random.cuda" in states:
        torch.cuda.set_rng_state(states["random.cuda"])


def seed_step(seed: int, *, step: int, rank: int) -> None:
    """Start the generators anew for one step of one process.

    Processes must not drop the same units. What they draw follows from the step alone, so a checkpoint
    needs no state of each process, and their number may change.
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))

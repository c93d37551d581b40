"""The processes of one run: which one this is, and what they tell each other.

Each process holds one device. A launcher (`torchrun`, `accelerate launch`) starts them and sets
`WORLD_SIZE`, `RANK` and `LOCAL_RANK`; without a launcher there is one.
"""

import json
import os
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of the run. Every method must be called by all of them, in the same order.

    Attributes:
        rank: 0 to `count` - 1; rank 0 alone writes files and talks to the user.
        count: processes of the run.
    """

    rank: int
    count: int

    @property
    def is_main(self) -> bool:
        """Whether this process writes and talks."""
        return self.rank == 0

    def share(self, value: T) -> T:
        """The value that rank 0 gave, in all processes; it must be JSON-ready (a path as text)."""
        if self.count == 1:
            return value
        text = json.dumps(value).encode() if self.is_main else b""
        length = torch.tensor([len(text)])
        distributed.broadcast(length, src=0)
        message = torch.zeros(int(length), dtype=torch.uint8)
        if self.is_main:
            message.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        distributed.broadcast(message, src=0)
        return cast(T, json.loads(message.numpy().tobytes()))

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Element by element over all processes; each gets the same bits."""
        if self.count == 1:
            return values
        summed = torch.from_numpy(np.array(values, dtype=np.float64))
        distributed.all_reduce(summed)
        return cast(NDArray[np.float64], summed.numpy())

    def wait(self) -> None:
        """Go on when all processes have come here."""
        self.sum(np.zeros(1))

    def leave(self) -> None:
        """Close the connections, at the very end of a run that went well."""
        if self.count > 1 and distributed.is_initialized():
            distributed.destroy_process_group()


ALONE = Ranks(0, 1)


def this_process() -> Ranks:
    """Which process this is; the first call connects them and makes `LOCAL_RANK`'s GPU the current one.

    Small things travel between main memories (gloo), gradients between GPUs (NCCL).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    if not distributed.is_initialized():
        has_cuda = torch.cuda.is_available()
        if has_cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        distributed.init_process_group("cpu:gloo,cuda:nccl" if has_cuda else "gloo")
    return Ranks(distributed.get_rank(), distributed.get_world_size())


def is_sharded() -> bool:
    """Whether the launcher asks for FSDP: each process then keeps a part of every weight."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def is_zero() -> bool:
    """Whether the launcher asks for DeepSpeed: each process then keeps a part of the optimizer's states."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def loading_device(device: str) -> str:
    """Where this process loads weights to.

    That is `device`, with the number of its GPU where there are several processes; and main memory if the
    weights are to be cut into shards first.
    """
    if is_sharded():
        return "cpu"
    return f"cuda:{torch.cuda.current_device()}" if device == "cuda" and this_process().count > 1 else device

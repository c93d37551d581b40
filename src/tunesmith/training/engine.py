"""A model on the devices of a run: alone, with whole weights on each (DDP), or cut over them (FSDP2)."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tunesmith.hardware import Hardware
from tunesmith.training.ranks import Ranks, is_sharded
from tunesmith.training.shards import shard, whole

OptimizerOf = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class Engine:
    """Computes gradients of a sum over all processes, and takes steps; every process calls the same.

    Args:
        model: prepared by a method; parameters with `requires_grad` learn.
        optimizer_of: makes the optimizer, when the parameters are where they stay.
        hardware: device and number type.
        ranks: the processes of the run.

    Attributes:
        bare: the model under its own names; sharded, if it was cut.
        model: what a forward pass goes through.
        optimizer: of the learning parameters.
        device: where this process computes.
    """

    def __init__(
        self, model: nn.Module, optimizer_of: OptimizerOf, *, hardware: Hardware, ranks: Ranks
    ) -> None:
        self._accelerator = Accelerator(
            cpu=hardware.device == "cpu",
            mixed_precision=hardware.mixed_precision,
        )
        self._ranks = ranks
        self.device: torch.device = self._accelerator.device
        if is_sharded():
            self.model = shard(model, device=self.device, dtype=hardware.torch_dtype, ranks=ranks)
        else:
            self.model = self._accelerator.prepare_model(model)
        self.bare = model
        self._learning = [parameter for parameter in self.bare.parameters() if parameter.requires_grad]
        self.optimizer = optimizer_of(self._learning)

    def passing(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Around the forward and backward of a micro-batch; with whole weights only the last one talks."""
        if isinstance(self.model, DistributedDataParallel) and not is_last:
            return self.model.no_sync()
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, summed over the processes."""
        # DDP and FSDP take the mean over the processes.
        self._accelerator.backward(loss * self._ranks.count)

    def clip(self, most: float) -> float:
        """Norm of the whole gradient; a larger one than `most` is scaled down to it."""
        norm = self._accelerator.clip_grad_norm_(self._learning, most)
        return float(whole(norm)) if norm is not None else 0.0

    def step(self, learning_rate: float) -> None:
        """Update the weights, and drop the gradient."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.forget_gradient()

    def forget_gradient(self) -> None:
        """Drop what was accumulated."""
        self.optimizer.zero_grad()

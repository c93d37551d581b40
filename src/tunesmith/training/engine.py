"""A model on the devices of a run: alone, whole on each of them (DDP), or cut over them (FSDP2)."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tunesmith.config import TrainingConfig
from tunesmith.data.batches import Batch
from tunesmith.errors import ConfigError
from tunesmith.hardware import Hardware
from tunesmith.models.fused import turned_weights
from tunesmith.training.loss import batch_loss_sum
from tunesmith.training.optimizer import make_optimizer
from tunesmith.training.ranks import Ranks, is_sharded, is_zero
from tunesmith.training.shards import shard, whole

OptimizerOf = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def optimizer_maker(settings: TrainingConfig) -> OptimizerOf:
    """What makes the optimizer of a run from its learning parameters.

    Raises:
        ConfigError: if its states are to be cut over the processes, and are not torch's.
    """
    kind = "adamw_torch" if settings.optim == "auto" else settings.optim
    if kind != "adamw_torch" and (is_sharded() or is_zero()):
        raise ConfigError(
            f"`optim` is {kind}, and FSDP and DeepSpeed cut only the states of adamw_torch",
            hint="use `--optim adamw_torch`, or whole weights on each device: `examples/devices/ddp.yaml`",
        )
    return partial(
        make_optimizer,
        kind=kind,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )


class Engine:
    """Computes gradients of a sum over all processes, and takes steps; every process calls the same.

    Args:
        model: prepared by a method; parameters with `requires_grad` learn.
        optimizer_of: makes the optimizer, when the parameters are where they stay.
        hardware: device and number type.
        most_norm: a gradient of a larger norm is scaled down to it.
        ranks: the processes of the run.

    Attributes:
        bare: the model under its own names; sharded, if it was cut.
        model: what a forward pass goes through.
        optimizer: of the learning parameters.
        device: where this process computes.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer_of: OptimizerOf,
        *,
        hardware: Hardware,
        most_norm: float,
        ranks: Ranks,
    ) -> None:
        self._accelerator = Accelerator(
            cpu=hardware.device == "cpu", mixed_precision=hardware.mixed_precision
        )
        self._ranks, self._most_norm = ranks, most_norm
        self.device: torch.device = self._accelerator.device
        self.bare = model
        if is_sharded():
            self.model = shard(model, device=self.device, dtype=hardware.torch_dtype, ranks=ranks)
        else:
            self.model = self._accelerator.prepare_model(model)
        self._learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = optimizer_of(self._learning)

    def ready(self) -> AbstractContextManager[None]:
        """Around the whole training: weights lie as is fastest. Several processes leave them as they are."""
        is_alone = self._ranks.count == 1 and not is_sharded() and not is_zero()
        return turned_weights(self.bare) if is_alone else nullcontext()

    def passing(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Around the forward and backward of a micro-batch; with whole weights only the last one talks."""
        if isinstance(self.model, DistributedDataParallel) and not is_last:
            return self.model.no_sync()
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, summed over the processes."""
        # DDP and FSDP take the mean over the processes.
        self._accelerator.backward(loss * self._ranks.count)

    def accumulate(self, batches: Sequence[Batch], *, scored_tokens: int) -> float:
        """Add the gradient of the loss of these micro-batches, each forward and backward.

        Args:
            batches: of one step, those of this process.
            scored_tokens: of the whole step, by which the loss is divided.

        Returns:
            The summed loss of these micro-batches, in nats.
        """
        nats = 0.0
        for number, batch in enumerate(batches, start=1):
            with self.passing(is_last=number == len(batches)):
                loss_sum = batch_loss_sum(self.model, batch, self.device)
                self.backward(loss_sum / scored_tokens)
            nats += float(loss_sum.detach())
        return nats

    def set_learning_rate(self, rate: float) -> None:
        """Of the coming step."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def clip(self) -> float:
        """Norm of the whole gradient, which is then scaled down where it is too large."""
        norm = self._accelerator.clip_grad_norm_(self._learning, self._most_norm)
        return float(whole(norm)) if norm is not None else 0.0

    def step(self) -> None:
        """Update the weights, and drop the gradient."""
        self.optimizer.step()
        self.forget_gradient()

    def forget_gradient(self) -> None:
        """Drop what was accumulated."""
        self.optimizer.zero_grad()

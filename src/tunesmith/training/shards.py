"""FSDP2: each process keeps a part of every weight, gradient and optimizer state.

Torch's own `fully_shard` does it, one unit for each layer and one for the rest; the settings are those of
accelerate's configuration file. What leaves the run (checkpoints, adapters) is whole again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from tunesmith.errors import ConfigError
from tunesmith.training.ranks import Ranks


def shard(model: nn.Module, *, device: torch.device, dtype: torch.dtype, ranks: Ranks) -> nn.Module:
    """`model`, its weights cut over the processes; they may be in main memory before.

    Args:
        model: the same on all processes.
        device: where this process computes.
        dtype: number type of the computation; gradients are summed in float32.
        ranks: the processes.

    Raises:
        ConfigError: if the configuration asks for what is not offered, or weights cannot be cut.
    """
    plugin = FullyShardedDataParallelPlugin()
    _check(plugin, model)
    kinds = plugin.transformer_cls_names_to_wrap or cast(set[str], model._no_split_modules)
    settings = {
        "mesh": init_device_mesh(device.type, (ranks.count,)),
        "reshard_after_forward": plugin.reshard_after_forward,
        "offload_policy": plugin.cpu_offload,
        "mp_policy": MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32),
    }
    for layer in [layer for layer in model.modules() if type(layer).__name__ in kinds]:
        fully_shard(layer, **settings)
    fully_shard(model, **settings)
    if hasattr(model, "generate"):
        register_fsdp_forward_method(model, "generate")
    return model


def _check(plugin: FullyShardedDataParallelPlugin, model: nn.Module) -> None:
    if plugin.fsdp_version != 2:
        raise ConfigError(
            f"the accelerate configuration has `fsdp_version: {plugin.fsdp_version}`, and only 2 is offered",
            hint="take `examples/devices/fsdp2.yaml`, or set `fsdp_version: 2`",
        )
    if plugin.cpu_ram_efficient_loading:
        raise ConfigError(
            "the accelerate configuration has `fsdp_cpu_ram_efficient_loading: true`, which leaves weights "
            "empty on all processes but one",
            hint="set `fsdp_cpu_ram_efficient_loading: false` in it",
        )
    packed = [name for name, parameter in model.named_parameters() if not parameter.is_floating_point()]
    if packed:
        raise ConfigError(
            f"FSDP cannot cut {len(packed)} quantized weights such as `{packed[0]}`",
            hint="train QLoRA with whole weights on each device: `examples/devices/ddp.yaml`",
        )


def whole(tensor: Tensor) -> Tensor:
    """All of `tensor`; a shard is gathered, and all processes must take part."""
    gathered: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return gathered


def like(parameter: Tensor, value: Tensor) -> Tensor:
    """This process's shard of the whole `value`, if `parameter` is a shard; else `value`."""
    if not isinstance(parameter, DTensor):
        return value
    on_device = value.to(parameter.device)
    return distribute_tensor(on_device, parameter.device_mesh, parameter.placements, src_data_rank=None)


def reshard(model: nn.Module) -> None:
    """Free weights that a forward pass left gathered, so that `parameters()` are the shards."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextmanager
def whole_weights(model: nn.Module, ranks: Ranks) -> Iterator[None]:
    """Within this context rank 0 finds the trained weights of a sharded model whole, in main memory.

    So that whatever saves a model or an adapter can do it there; the model must not compute meanwhile.
    Without shards nothing changes. All processes must enter and leave it.
    """
    reshard(model)
    shards = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad and isinstance(parameter, DTensor)
    ]
    gathered: dict[int, nn.Parameter] = {}
    for shard_of in {id(parameter): parameter for _, _, parameter in shards}.values():  # a tied one is one
        complete = whole(shard_of.detach())
        if ranks.is_main:
            gathered[id(shard_of)] = nn.Parameter(complete.cpu())
    for module, name, parameter in shards:
        setattr(module, name, gathered.get(id(parameter), parameter))
    try:
        yield
    finally:
        for module, name, parameter in shards:
            setattr(module, name, parameter)

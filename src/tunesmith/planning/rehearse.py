"""One training step rehearsed on tensors that have shapes but no memory, by the code that will train.

The model is built from its config, prepared by its method, and goes forward and backward under a count of
all live tensors. What the count cannot see is in `beside.py`. Layers are alike, so a deep model is
rehearsed with two and four layers; each figure is linear in their number.
"""

from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PretrainedConfig

from tunesmith.config import MethodConfig
from tunesmith.hardware import DTYPES
from tunesmith.methods import METHODS
from tunesmith.models.checkpointing import enable_checkpointing
from tunesmith.models.fused_product import standing_for
from tunesmith.planning.beside import heap_bytes, runtime_bytes
from tunesmith.planning.counting import LiveBytes
from tunesmith.planning.optimizer_states import states_bytes, step_bytes
from tunesmith.planning.stages import Batch, evaluation_peaks, training_peaks
from tunesmith.planning.stand_in import Linear4bit, make_fake, plain_model, prepared
from tunesmith.planning.terms import Memory

FEW_LAYERS, MORE_LAYERS = 2, 4


@dataclass(frozen=True, slots=True)
class Setup:
    """What decides the memory of a run.

    A step of several micro-batches is assumed: gradients are there while the next one is computed.

    Attributes:
        config: shape of the model.
        method: what is trained.
        rows: rows of the largest micro-batch.
        length_tokens: its padded length.
        scored_tokens: tokens that its loss counts, over all its rows.
        device: `cpu`, `cuda` or `mps`.
        dtype: `float32` or `bfloat16`, number type of frozen weights; weights that learn in float32 on
            CUDA are computed with in bfloat16.
        is_checkpointed: whether activations are computed again instead of kept.
        optim: kind of the optimizer, never `auto`.
        evaluation_rows: rows in one batch of the evaluation.
        answer_tokens: longest answer that is generated; 0 where none is.
        has_small_heap: on CPU, whether the run holds its heap small: see `heap.py`.
    """

    config: PretrainedConfig
    method: MethodConfig
    rows: int
    length_tokens: int
    scored_tokens: int
    device: str
    dtype: str
    is_checkpointed: bool
    optim: str
    evaluation_rows: int
    answer_tokens: int
    has_small_heap: bool = True


@dataclass(frozen=True, slots=True)
class Figures:
    """What a rehearsal found; bytes, and peaks beside weights, gradients and optimizer states.

    Attributes:
        weights: of the pretrained model.
        quantization: constants of its 4-bit weights.
        mapped: weights that were packed, as they are in their file. On CPU the file stays mapped for the
            sake of those that were not, and what was read of it counts as resident.
        adapter: added by the method.
        gradients: of what learns.
        states: of the optimizer.
        step: temporary tensors of the optimizer's step.
        kept: at the end of the layers' forward pass.
        layers_peak: in their forward pass.
        head_peak: from there until the gradient of their result is known.
        backward_peak: in the layers' backward pass.
        embedding_peak: behind it.
        loss_peak: measuring held-out rows.
        answer_peak: answering them.
        flops: of forward and backward pass.
        parameters: of all of the model.
        trainable: that learn.
    """

    weights: int
    quantization: int
    mapped: int
    adapter: int
    gradients: int
    states: int
    step: int
    kept: int
    layers_peak: int
    head_peak: int
    backward_peak: int
    embedding_peak: int
    loss_peak: int
    answer_peak: int
    flops: int
    parameters: int
    trainable: int


def rehearse(setup: Setup, *, is_whole: bool = False) -> Memory:
    """Memory of a run, by term, found without taking any of it.

    Args:
        setup: what is planned.
        is_whole: go through all layers, however many; slower, and the same figures.

    Raises:
        ConfigError: if the method or checkpointing cannot be had with this model.
    """
    figures = _figures(setup, is_whole=is_whole)
    body_peak = max(figures.layers_peak, figures.backward_peak, figures.embedding_peak, figures.step)
    is_at_head = figures.head_peak >= body_peak
    is_at_step = not is_at_head and body_peak == figures.step
    activations = figures.kept if is_at_head else 0 if is_at_step else body_peak
    runtime = runtime_bytes(setup.device)
    peak = max(figures.head_peak, body_peak)
    mapped = figures.mapped if setup.device == "cpu" else 0
    return Memory(
        weights_bytes=figures.weights,
        quantization_bytes=figures.quantization,
        adapter_bytes=figures.adapter,
        gradients_bytes=figures.gradients,
        optimizer_bytes=figures.states + (figures.step if is_at_step else 0),
        activations_bytes=activations,
        logits_bytes=figures.head_peak - figures.kept if is_at_head else 0,
        workspace_bytes=mapped + heap_bytes(peak, device=setup.device, has_small_heap=setup.has_small_heap),
        runtime_bytes=runtime,
        evaluation_bytes=mapped + figures.states + max(figures.loss_peak, figures.answer_peak),
        flops_per_micro_batch=figures.flops,
        parameters=figures.parameters,
        trainable_parameters=figures.trainable,
        loading_bytes=runtime + figures.weights + figures.quantization + mapped,
    )


def _figures(setup: Setup, *, is_whole: bool) -> Figures:
    """Rehearsed whole, or with few layers and continued to all of them."""
    layers = setup.config.get_text_config().num_hidden_layers
    if is_whole or layers <= MORE_LAYERS:
        return _rehearse_once(setup, layers)
    few, more = (asdict(_rehearse_once(setup, count)) for count in (FEW_LAYERS, MORE_LAYERS))
    share = (layers - FEW_LAYERS) / (MORE_LAYERS - FEW_LAYERS)
    return Figures(**{name: round(few[name] + (more[name] - few[name]) * share) for name in few})


def _rehearse_once(setup: Setup, layers: int) -> Figures:
    base = METHODS[setup.method.name].base
    dtype = DTYPES[setup.dtype]
    plain = plain_model(
        _with_layers(setup.config, layers), dtype=dtype, is_four_bit=base == "four_bit", device=setup.device
    )
    packed = [layer for layer in plain.modules() if isinstance(layer, Linear4bit)]
    constants = sum(layer.constants_bytes for layer in packed)
    whole = sum(tensor.nbytes for tensor in chain(plain.parameters(), plain.buffers()))
    model = prepared(plain, setup.method)
    if setup.is_checkpointed:
        enable_checkpointing(model)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sizes = [parameter.numel() for parameter in learning]
    states = states_bytes(sizes, optim=setup.optim, number_bytes=learning[0].element_size())
    with FakeTensorMode(), standing_for(setup.device), LiveBytes(chosen=setup.scored_tokens) as count:
        keep = make_fake(model)
        added = count.live_bytes - whole
        batch = Batch(setup.rows, setup.length_tokens, setup.scored_tokens, is_mixed=_is_mixed(setup))
        peaks = training_peaks(model, batch, count)
        peaks |= evaluation_peaks(
            model, batch, count, rows=setup.evaluation_rows, answer_tokens=setup.answer_tokens
        )
        del keep
    return Figures(
        weights=whole - constants,
        quantization=constants,
        mapped=sum(layer.whole_bytes for layer in packed),
        adapter=added,
        gradients=sum(parameter.nbytes for parameter in learning),
        states=states,
        step=step_bytes(
            sizes, optim=setup.optim, device=setup.device, number_bytes=learning[0].element_size()
        ),
        parameters=sum(map(_numbers, model.parameters())),
        trainable=sum(sizes),
        **peaks,
    )


def _with_layers(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    """The same shape with so many layers; what is listed by layer is cut with them."""
    changed = deepcopy(config)
    text: Any = changed.get_text_config()
    before = text.num_hidden_layers
    text.num_hidden_layers = layers
    for name, value in list(vars(text).items()):
        if isinstance(value, list) and len(value) == before and name.endswith(("layers", "layer_types")):
            setattr(text, name, value[:layers])
    return changed


def _is_mixed(setup: Setup) -> bool:
    """Whether accelerate computes in bfloat16 what is not held in it."""
    return setup.dtype == "bfloat16" or (
        setup.device == "cuda" and METHODS[setup.method.name].base == "trained"
    )


def _numbers(parameter: torch.Tensor) -> int:
    """How many numbers it stands for: two to a byte where they are packed."""
    return parameter.numel() * (2 if parameter.dtype == torch.uint8 else 1)

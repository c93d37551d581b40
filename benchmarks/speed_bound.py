"""The task at the speed of its matrix products alone: `python -m speed_bound MODEL WORK`.

Per frozen linear layer one product forward and one for the gradient of its input; the output layer at the
scored positions, forward and backward. Every product writes into a buffer that is already there.
"""

import json
import sys
import time
from pathlib import Path

import torch
from peers import task
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

# Largest block of logits held at once.
CHUNK_TOKENS = 256
ROLES = ("input", "output", "gradient")
Buffers = dict[tuple[str, int], Tensor]


def layer_shapes(config: PretrainedConfig) -> list[tuple[int, int]]:
    """(output width, input width) of the linear layers of one block of a Llama."""
    width, inner = config.hidden_size, config.intermediate_size
    head = getattr(config, "head_dim", None) or width // config.num_attention_heads
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    return [
        (queries, width),
        (keys, width),
        (keys, width),
        (width, queries),
        (inner, width),
        (inner, width),
        (width, inner),
    ]


def products(weight_OI: Tensor, buffers: Buffers, tokens: int) -> None:
    """Forward, and the gradient of the input; what goes in stays as it is, so that no number dies out."""
    outputs, inputs = weight_OI.shape
    y_TO = buffers["output", outputs][:tokens]
    torch.mm(buffers["input", inputs][:tokens], weight_OI.t(), out=y_TO)
    torch.mm(y_TO, weight_OI, out=buffers["gradient", inputs][:tokens])


def bound_seconds(config: PretrainedConfig, cuts: list[tuple[int, int]]) -> float:
    """Seconds of the products of micro-batches given as (tokens, scored tokens)."""
    shapes = layer_shapes(config)
    layers = [[torch.randn(shape) for shape in shapes] for _ in range(config.num_hidden_layers)]
    head_VD = torch.randn(config.vocab_size, config.hidden_size)
    most = max(CHUNK_TOKENS, *(tokens for tokens, _ in cuts))
    widths = {width for shape in shapes for width in shape}
    buffers = {(role, width): torch.ones(most, width) for role in ROLES for width in widths}
    buffers["output", config.vocab_size] = torch.ones(CHUNK_TOKENS, config.vocab_size)
    started = time.perf_counter()
    for tokens, scored in cuts:
        for weight_OI in (weight_OI for layer in layers for weight_OI in layer):
            products(weight_OI, buffers, tokens)
        for at in range(0, scored, CHUNK_TOKENS):
            products(head_VD, buffers, min(CHUNK_TOKENS, scored - at))
    return time.perf_counter() - started


def main() -> None:
    """Time the first step's products twice, and tell the second time."""
    model_path, work = sys.argv[1], Path(sys.argv[2])
    rows = json.loads((work / task.SAME_ROWS).read_text(encoding="utf-8"))[: task.WINDOW_ROWS]
    lengths = [len(row["input_ids"]) for row in rows]
    scored = [sum(label != task.IGNORED for label in row["labels"][1:]) for row in rows]
    size = task.MICRO_BATCH_ROWS
    cuts = [(sum(lengths[at : at + size]), sum(scored[at : at + size])) for at in range(0, len(rows), size)]
    config = AutoConfig.from_pretrained(model_path)
    seconds = [bound_seconds(config, cuts) for _ in range(2)][-1]
    total = sum(lengths)
    task.tell(task.Measured(total, total, seconds, (), task.peak_bytes(), task.versions_of(("torch",))))


if __name__ == "__main__":
    main()

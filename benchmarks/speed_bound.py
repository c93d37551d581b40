"""The task at the speed of its matrix products alone: `python -m speed_bound MODEL WORK`.

Per frozen linear layer one product forward and one for the gradient of its input; the output layer at the
scored positions, forward and backward; of every token of every row, whatever rows share. Timed with each of
the libraries that torch multiplies with on this processor; the faster one counts.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peers import task
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from tunesmith.models.fused_product import HAS_ONEDNN

# Largest block of logits held at once.
CHUNK_TOKENS = 256
ROLES = ("input", "output", "gradient")
Buffers = dict[tuple[str, int], Tensor]
Multiply = Callable[[Tensor, Tensor, Tensor], Tensor]


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


def by_mkl(x_TI: Tensor, weight_OI: Tensor, y_TO: Tensor) -> Tensor:
    """X W^T into a buffer that is already there."""
    return torch.mm(x_TI, weight_OI.t(), out=y_TO)


def by_onednn(x_TI: Tensor, weight_OI: Tensor, _: Tensor) -> Tensor:
    """X W^T by oneDNN, which takes no buffer."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x_TI, weight_OI, None, "none", [], "")
    return result


LIBRARIES = {"MKL": by_mkl} | ({"oneDNN": by_onednn} if HAS_ONEDNN else {})


def products(multiply: Multiply, weight_OI: Tensor, buffers: Buffers, tokens: int) -> None:
    """Forward, and the gradient of the input; what goes in stays as it is, so that no number dies out."""
    outputs, inputs = weight_OI.shape
    y_TO = multiply(buffers["input", inputs][:tokens], weight_OI, buffers["output", outputs][:tokens])
    multiply(y_TO, weight_OI.t(), buffers["gradient", inputs][:tokens])


def bound_seconds(multiply: Multiply, config: PretrainedConfig, cuts: list[tuple[int, int]]) -> float:
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
            products(multiply, weight_OI, buffers, tokens)
        for at in range(0, scored, CHUNK_TOKENS):
            products(multiply, head_VD, buffers, min(CHUNK_TOKENS, scored - at))
    return time.perf_counter() - started


def main() -> None:
    """Time the first step's products twice with each library, and tell the faster second time."""
    model_path, work = sys.argv[1], Path(sys.argv[2])
    rows = json.loads((work / task.SAME_ROWS).read_text(encoding="utf-8"))[: task.WINDOW_ROWS]
    lengths = [len(row["input_ids"]) for row in rows]
    scored = [sum(label != task.IGNORED for label in row["labels"][1:]) for row in rows]
    size = task.MICRO_BATCH_ROWS
    cuts = [(sum(lengths[at : at + size]), sum(scored[at : at + size])) for at in range(0, len(rows), size)]
    config = AutoConfig.from_pretrained(model_path)
    seconds = {
        name: [bound_seconds(multiply, config, cuts) for _ in range(2)][-1]
        for name, multiply in LIBRARIES.items()
    }
    print(", ".join(f"{name}: {taken:.2f} s" for name, taken in seconds.items()))
    total, least = sum(lengths), min(seconds.values())
    task.tell(task.Measured(total, total, least, (), task.peak_bytes(), task.versions_of(("torch",))))


if __name__ == "__main__":
    main()

"""One training step rehearsed on tensors that have shapes but no memory, by the code that will train."""

from dataclasses import dataclass

from transformers import PretrainedConfig

from tunesmith.config import MethodConfig
from tunesmith.planning.terms import Memory


@dataclass(frozen=True, slots=True)
class Setup:
    """What decides the memory of a run.

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


def rehearse(setup: Setup) -> Memory:
    """Memory of a run, by term, found without taking any of it."""
    raise NotImplementedError

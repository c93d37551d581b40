"""The process behind `probe.py`: a setup as JSON on stdin, what it took as JSON on stdout."""

import json
import sys
import time
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from tunesmith.config import MethodConfig, TrainingConfig
from tunesmith.data.batches import Batch, collate
from tunesmith.data.conversation import Row
from tunesmith.data.render import Rendered
from tunesmith.errors import TunesmithError
from tunesmith.hardware import Hardware, peak_memory_bytes
from tunesmith.methods import METHODS, prepared
from tunesmith.models.checkpointing import enable_checkpointing
from tunesmith.models.find import find_model
from tunesmith.models.load import load_model
from tunesmith.planning.heap import keep_heap_small
from tunesmith.training.engine import Engine, optimizer_maker
from tunesmith.training.loss import batch_loss_sum
from tunesmith.training.ranks import this_process


@dataclass(frozen=True, slots=True)
class Asked:
    """A `Setup` by its plain values, and the model by its name."""

    method: dict[str, Any]
    rows: int
    length_tokens: int
    scored_tokens: int
    device: str
    dtype: str
    is_checkpointed: bool
    optim: str
    evaluation_rows: int
    answer_tokens: int
    has_small_heap: bool
    model_name: str
    revision: str | None

    @property
    def hardware(self) -> Hardware:
        """Device and number type as the loop takes them."""
        return Hardware(self.device, self.dtype, "as planned")


def main() -> None:
    """Measure and tell."""
    asked = Asked(**json.load(sys.stdin))
    if asked.has_small_heap and asked.device == "cpu":
        keep_heap_small()
    try:
        seconds = measure(asked)
    except (TunesmithError, MemoryError, RuntimeError) as error:
        # Out of memory is a RuntimeError in torch.
        sys.exit(f"{type(error).__name__}: {error}")
    print(json.dumps({"peak_bytes": peak_memory_bytes(asked.device), "seconds_per_micro_batch": seconds}))


def measure(asked: Asked) -> float:
    """A micro-batch, a step, and a micro-batch on top of its gradients; seconds of the faster one."""
    model = ready_model(asked)
    settings = TrainingConfig(optim=cast(Any, asked.optim))
    engine = Engine(
        model, optimizer_maker(settings), hardware=asked.hardware, most_norm=1.0, ranks=this_process()
    )
    batch = collate(
        synthetic_rows(asked, vocabulary=cast(Any, model).config.get_text_config().vocab_size), pad_id=0
    )
    model.train()
    first = timed(engine, batch)
    engine.clip()
    engine.optimizer.step()
    return min(first, timed(engine, batch))


def ready_model(asked: Asked) -> nn.Module:
    """Loaded and prepared as the pipeline does it."""
    method = MethodConfig(**asked.method)
    loaded = load_model(
        find_model(asked.model_name, revision=asked.revision),
        dtype=asked.hardware.torch_dtype,
        device=asked.device,
        four_bit=METHODS[method.name].base == "four_bit",
    )
    model = prepared(loaded.model, method)
    if asked.is_checkpointed:
        enable_checkpointing(model)
    return model


def timed(engine: Engine, batch: Batch) -> float:
    """Seconds of one forward and backward pass."""
    started = time.perf_counter()
    loss = batch_loss_sum(engine.model, batch, engine.device)
    engine.backward(loss / batch.scored_tokens)
    float(loss.detach())
    if engine.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def synthetic_rows(asked: Asked, *, vocabulary: int) -> list[Rendered]:
    """Random rows of the length asked for, the scored tokens shared out among their ends."""
    random = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(vocabulary, (asked.rows, asked.length_tokens), generator=random)
    found = []
    for index, ids in enumerate(ids_BT.tolist()):
        scored = min((asked.scored_tokens + index) // asked.rows, asked.length_tokens - 1)
        mask = (False,) * (asked.length_tokens - scored) + (True,) * scored
        found.append(Rendered(tuple(ids), mask, Row((), "random", index + 1, "messages")))
    return found


if __name__ == "__main__":
    main()

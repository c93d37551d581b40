"""Training speed beside the usual tutorial's step, on the same rows and the same machine.

`make bench` writes `benchmarks/speed.md`. The tutorial's step pads with an attention mask, computes
logits at every position and lets transformers take the loss. Both sides train the same LoRA in turn,
several times; the ratio counts, not the seconds.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from tunesmith.config import MethodConfig
from tunesmith.data.batches import Batch, micro_batches
from tunesmith.data.conversation import Message, Row
from tunesmith.data.render import Rendered, Renderer, choose_template
from tunesmith.data.tickets import generate_tickets
from tunesmith.methods import lora
from tunesmith.models.find import find_model
from tunesmith.models.load import load_model
from tunesmith.training.loss import batch_loss_sum

ROWS, ROUNDS, MICRO_BATCH_ROWS, SEED = 32, 5, 4, 17
CPU = torch.device("cpu")


def ours(model: nn.Module, batch: Batch) -> Tensor:
    """Summed loss as the loop takes it."""
    return batch_loss_sum(model, batch, CPU)


def tutorial(model: nn.Module, batch: Batch) -> Tensor:
    """Summed loss as a tutorial takes it: mask, all logits, labels with -100."""
    lengths_B1 = torch.tensor([[len(row.ids)] for row in batch.rows])
    mask_BT = (torch.arange(batch.input_ids_BT.shape[1])[None] < lengths_B1).long()
    labels_BT = batch.input_ids_BT.masked_fill(~batch.predicts_BT.roll(1, dims=1), -100)
    output = model(input_ids=batch.input_ids_BT, attention_mask=mask_BT, labels=labels_BT, use_cache=False)
    return output.loss * batch.scored_tokens


def rows_of(renderer: Renderer) -> list[Rendered]:
    """Generated support tickets, rendered."""
    examples, _ = generate_tickets(seed=SEED, train_rows=ROWS, test_rows=1)
    return [
        renderer.render(
            Row(
                (Message("user", row["prompt"]), Message("assistant", row["completion"])),
                "tickets",
                line,
                "prompt_completion",
            )
        )
        for line, row in enumerate(examples, start=1)
    ]


def timed(
    step: Callable[[nn.Module, Batch], Tensor], model: nn.Module, batches: Sequence[Batch]
) -> tuple[float, float]:
    """Seconds for forward and backward over all batches, and the mean loss in nats a token."""
    model.zero_grad()
    nats, started = 0.0, time.perf_counter()
    for batch in batches:
        loss = step(model, batch)
        loss.backward()
        nats += float(loss.detach())
    return time.perf_counter() - started, nats / sum(batch.scored_tokens for batch in batches)


def main() -> None:
    """Measure in turn and write the page."""
    torch.manual_seed(SEED)
    loaded = load_model(find_model("smollm2-135m"), dtype=torch.float32, device="cpu")
    renderer = Renderer(loaded.tokenizer, choose_template(loaded.tokenizer))
    model = lora.prepare(loaded.model, MethodConfig()).train()
    rows = rows_of(renderer)
    batches = list(micro_batches(rows, micro_batch_rows=MICRO_BATCH_ROWS, pad_id=loaded.pad_id))
    seconds: dict[str, list[float]] = {"ours": [], "tutorial": []}
    losses: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, step in (("tutorial", tutorial), ("ours", ours)):
            taken, losses[name] = timed(step, model, batches)
            seconds[name].append(taken)
    torch.testing.assert_close(losses["ours"], losses["tutorial"], rtol=1e-4, atol=1e-4)
    page = report(seconds, losses, tokens=sum(len(row.ids) for row in rows))
    (Path(__file__).parent / "speed.md").write_text(page, encoding="utf-8")
    print(page)


def report(seconds: dict[str, list[float]], losses: dict[str, float], *, tokens: int) -> str:
    """The page."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = sorted(slow / fast for slow, fast in zip(seconds["tutorial"], seconds["ours"], strict=True))
    lines = [
        "# Training speed",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {torch.get_num_threads()} CPU threads, float32, "
        + ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
        + ".",
        f"SmolLM2-135M, LoRA rank 16 on all linear layers, {ROWS} tickets ({tokens} tokens),",
        f"micro-batches of {MICRO_BATCH_ROWS} rows, forward and backward, {ROUNDS} rounds in turn.",
        "",
        "| step | tokens/s (median) | loss |",
        "|---|---|---|",
        *[f"| {name} | {tokens / medians[name]:.0f} | {losses[name]:.5f} |" for name in ("tutorial", "ours")],
        "",
        f"Ours is {statistics.median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f}).",
        "Both are sorted by length; what differs is the mask and the logits nobody scores.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

"""Training runs of milliseconds: a random Llama with LoRA, random rows, and how to compare two runs."""

from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from tunesmith.config import MethodConfig, TrainingConfig
from tunesmith.data.conversation import Row
from tunesmith.data.render import Rendered
from tunesmith.hardware import choose_hardware
from tunesmith.methods import full, lora
from tunesmith.progress import Silent
from tunesmith.training.loop import Loop

VOCABULARY, PAD, SEED = 48, 0, 3


def tiny_llama(*, is_tied=False):
    """A random Llama, always the same; tied: its output layer is its embeddings."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.2,
        tie_word_embeddings=is_tied,
    )
    return LlamaForCausalLM(config)


def tiny_lora(*, seed=SEED, dropout=0.0):
    """The random Llama with LoRA weights decided by the seed."""
    base = tiny_llama()
    torch.manual_seed(seed)
    return lora.prepare(base, MethodConfig(rank=4, dropout=dropout))


def tiny_full():
    """The random Llama, tied, all of whose weights learn."""
    return full.prepare(tiny_llama(is_tied=True), MethodConfig(name="full"))


def random_rows(count, *, seed=0, path="rows.jsonl"):
    """Rows of 6 to 25 tokens with answers of 1 to 9 tokens."""
    random = np.random.default_rng(seed)
    found = []
    for line in range(1, count + 1):
        ids = tuple(random.integers(1, VOCABULARY, random.integers(6, 26)).tolist())
        answer = int(random.integers(1, min(10, len(ids))))
        scored = (False,) * (len(ids) - answer) + (True,) * answer
        found.append(Rendered(ids, scored, Row((), path, line, "messages")))
    return found


def begun(rows, shared):
    """`rows` behind the same tokens, `shared` of them, none of which is scored."""
    before = tuple(range(1, shared + 1))
    return [replace(row, ids=before + row.ids, scored=(False,) * shared + row.scored) for row in rows]


class Told(Silent):
    """A progress that keeps what it is told."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def make_loop(model, folder, record, *, rows=None, validation=(), progress=None, **settings):
    """A loop over 11 rows or the given ones, in windows of 4, that never stops early unless told."""
    chosen = {"learning_rate": 5e-3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    return Loop(
        model,
        random_rows(11) if rows is None else rows,
        validation,
        settings=TrainingConfig(**{"seed": SEED, "early_stopping_patience": 0} | chosen | settings),
        hardware=choose_hardware(device="cpu"),
        pad_id=PAD,
        eval_batch_rows=4,
        checkpoints=folder,
        record=record,
        progress=progress or Silent(),
    )


def train(folder, *, model=None, **settings):
    """Weights, metrics lines and outcome of a whole run."""
    lines = []
    model = model or tiny_lora(seed=settings.get("seed", SEED))
    trained = make_loop(model, folder, lambda **line: lines.append(line), **settings).run()
    return weights(model), lines, trained


def weights(model):
    """A copy of the trained weights by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def bits(tensors):
    """Their bytes: equal only where every bit is."""
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def of(lines, name):
    """All values of one name, in order."""
    return [line[name] for line in lines if name in line]


def timeless(lines):
    """The lines without what no two runs have in common."""
    measured = ("tokens_per_second", "step_seconds", "input_seconds", "peak_memory_bytes")
    return [{name: value for name, value in line.items() if name not in measured} for line in lines]


def mean_by_hand(model, rows):
    """Nats a scored token over the rows together, one row at a time from all its logits."""
    nats = torch.zeros(())
    for row in rows:
        ids = torch.tensor([row.ids])
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
        losses = functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        nats = nats + losses[torch.tensor(row.scored[1:])].sum()
    return nats / sum(row.scored_tokens for row in rows)

"""The clinic's own small models: a Llama of 200,000 parameters, taught here so that it can be tuned.

`raw` has read the tasks' texts without any chat; `tiny` has then seen chats. Seeded: each machine makes
the same ones, up to the last bits of its sums.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tunesmith.data.generate.tasks import TASKS

SEED, VOCABULARY, WIDTH, LAYERS = 5, 1024, 64, 3
ROWS_A_TASK = 1_500
CHAT_STEPS, RAW_STEPS, BATCH_ROWS = 500, 150, 10
PEAK_RATE = 6e-3
IGNORED = -100
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Ids = Sequence[int]


def made_models(folder: Path) -> dict[str, Path]:
    """The folders of `tiny`, `raw` and `broken` (`tiny` with infinite weights), made now if need be."""
    found = {name: folder / name for name in ("tiny", "raw", "broken")}
    if all((path / "config.json").is_file() for path in found.values()):
        return found
    random = Random(SEED)  # noqa: S311  nothing secret is drawn
    rows = [row for task in TASKS.values() for row in task.rows(SEED, ROWS_A_TASK)]
    random.shuffle(rows)
    tokenizer = _tokenizer(f"{row['prompt']}\n{row['completion']}" for row in rows)
    model = _model()
    plain = [tokenizer(f"{row['prompt']}\n{row['completion']}\n").input_ids for row in rows]
    _teach(model, plain, steps=RAW_STEPS)
    _save(model, tokenizer, found["raw"])
    chats = [tokenizer(_chat(tokenizer, row)).input_ids for row in rows]
    _teach(model, chats, steps=CHAT_STEPS)
    _save(model, tokenizer, found["tiny"])
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, :4] = torch.inf
    _save(model, tokenizer, found["broken"])
    return found


def padded(rows: Sequence[tuple[Ids, Ids]]) -> dict[str, Tensor]:
    """Ids and labels of several rows as tensors of shape (B, T), padded on the right."""
    longest = max(len(ids) for ids, _ in rows)
    ids_BT = torch.zeros(len(rows), longest, dtype=torch.long)
    labels_BT = torch.full((len(rows), longest), IGNORED)
    mask_BT = torch.zeros(len(rows), longest, dtype=torch.long)
    for place, (ids, labels) in enumerate(rows):
        ids_BT[place, : len(ids)] = torch.tensor(ids)
        labels_BT[place, : len(ids)] = torch.tensor(labels)
        mask_BT[place, : len(ids)] = 1
    return {"input_ids": ids_BT, "labels": labels_BT, "attention_mask": mask_BT}


def _chat(tokenizer: PreTrainedTokenizerFast, row: dict[str, str]) -> str:
    names = (("system", "system"), ("user", "prompt"), ("assistant", "completion"))
    messages = [{"role": role, "content": row[key]} for role, key in names if key in row]
    return str(tokenizer.apply_chat_template(messages, tokenize=False))


def _tokenizer(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(text, normalized=False) for text in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token = SPECIALS
    tokenizer.chat_template = CHATML
    return tokenizer


def _model() -> LlamaForCausalLM:
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def _teach(model: nn.Module, rows: Sequence[Ids], *, steps: int) -> None:
    """All tokens are learned, rows of similar length together, the rate falling to nothing."""
    random = Random(SEED)  # noqa: S311  nothing secret is drawn
    by_length = sorted(rows, key=len)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98))
    model.train()
    for step in range(steps):
        start = random.randrange(len(by_length) - BATCH_ROWS)
        batch = padded([(ids, ids) for ids in by_length[start : start + BATCH_ROWS]])
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, (step + 1) / 20) * (1 - step / steps)
        logits_BTV = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        loss = functional.cross_entropy(
            logits_BTV[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORED
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

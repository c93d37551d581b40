"""A tiny random Llama with a byte-level tokenizer, made here in milliseconds, for tests about mechanics.

Real models and real quality are tested with the embedded one; here only shapes, masks and laws matter.
"""

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def tiny_tokenizer(
    *, chat_template: str | None = CHATML, extra: tuple[AddedToken, ...] = ()
) -> PreTrainedTokenizerFast:
    """Bytes are tokens; `<|im_end|>` ends a turn. `extra` tokens come behind the 259 others."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: number for number, text in enumerate([*SPECIALS, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIALS])
    backend.add_tokens(list(extra))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def tiny_model(*, seed: int = 0, vocabulary: int = 272) -> LlamaForCausalLM:
    """About 40,000 parameters in float32, in eval mode; the same seed gives the same weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def tiny_model_folder(path: Path, *, seed: int = 0, chat_template: str | None = CHATML) -> Path:
    """Write model and tokenizer as a standard folder and return it."""
    tiny_model(seed=seed).save_pretrained(path)
    tiny_tokenizer(chat_template=chat_template).save_pretrained(path)
    return path


def painted_rows(path: Path, count: int) -> Path:
    """Write instruction rows with one of four answers, each prompt another, and return the file."""
    colours = ("red", "green", "blue", "black")
    rows = [
        {"instruction": f"Paint thing {at} {colours[at % 4]}", "output": f"It is {colours[at % 4]}."}
        for at in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path

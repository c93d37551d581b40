"""Answers from a model: batched for files and evaluation, streamed for chat. Ids in, ids out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch.nn import functional
from transformers import (
    Cache,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    TextStreamer,
)

from tunesmith.models.shared_prefix import Prefix, bare_model, can_keep, compute_prefix, shared_tokens

MOST_ROWS_FACTOR = 2


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the next token is chosen.

    Attributes:
        max_new_tokens: longest answer in tokens.
        temperature: 0 is greedy; above, sampling at that temperature.
        top_p: sample from the smallest set of tokens with this probability
            (Holtzman et al. 2020, arXiv:1904.09751).
        seed: decides the samples.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 17


def generate_ids(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    decoding: Decoding,
    stop_ids: Sequence[int],
    pad_id: int,
    batch_rows: int = 16,
    on_rows: Callable[[int], None] = lambda rows: None,
    adapter_names: Sequence[str] | None = None,
) -> list[list[int]]:
    """The answer to each prompt, without its end token, in the prompts' order.

    Prompts of similar length share a batch, and a batch holds no more tokens than `batch_rows` of the longest
    prompts with their answers. What all prompts begin with is computed once, and rows that have ended leave
    their batch, where the model allows it (`models.shared_prefix`).

    Args:
        model: a causal language model.
        prompts: token ids of each prompt.
        decoding: how tokens are chosen.
        stop_ids: tokens that end an answer.
        pad_id: fills batches on the left.
        batch_rows: rows in a batch of the longest prompts; shorter ones may be up to `MOST_ROWS_FACTOR`
            times as many.
        on_rows: told the rows of each batch when it is done.
        adapter_names: for each prompt, peft's name of the adapter that answers it; by default the active one.
    """
    torch.manual_seed(decoding.seed)
    answers: list[list[int]] = [[] for _ in prompts]
    with torch.inference_mode():
        prefix = _prefix(model, prompts, decoding=decoding, is_mixed=bool(adapter_names))
        for indices in _batches(prompts, answer_tokens=decoding.max_new_tokens, most_rows=batch_rows):
            batch = _batch(
                [prompts[index] for index in indices],
                prefix=prefix,
                answer_tokens=decoding.max_new_tokens,
                pad_id=pad_id,
                device=model.device,
            )
            batch.names = [adapter_names[index] for index in indices] if adapter_names else None
            found = _answered(model, batch, decoding=decoding, stop_ids=stop_ids, pad_id=pad_id)
            for index, ids in zip(indices, found, strict=True):
                answers[index] = _until_stop(ids, stop_ids)
            on_rows(len(indices))
    return answers


def stream_answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[int],
    *,
    decoding: Decoding,
    stop_ids: Sequence[int],
    pad_id: int,
) -> list[int]:
    """Print the answer to one prompt as it comes, and return its ids without the end token."""
    torch.manual_seed(decoding.seed)
    prompt_1T = torch.tensor([list(prompt)], device=model.device)
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    with torch.inference_mode():
        output_1T = _generate(
            model,
            input_ids=prompt_1T,
            attention_mask=torch.ones_like(prompt_1T),
            generation_config=_generation_config(decoding, stop_ids, pad_id),
            streamer=streamer,
        )
    return _until_stop(output_1T[0, len(prompt) :].tolist(), stop_ids)


@dataclass(slots=True)
class _Batch:
    """Rows that are answered together: ids, which of them are no padding, what is known of them."""

    ids_BT: torch.Tensor
    mask_BT: torch.Tensor
    cache: Cache | None
    names: list[str] | None = None

    def keep(self, going: Sequence[int], output_BT: torch.Tensor) -> None:
        """Leave all but the rows `going`, which have become `output_BT`."""
        index_R = torch.tensor(going, device=output_BT.device)
        self.mask_BT = functional.pad(
            self.mask_BT[index_R], (0, output_BT.shape[1] - self.ids_BT.shape[1]), value=1
        )
        self.ids_BT = output_BT[index_R]
        self.names = [self.names[row] for row in going] if self.names else None
        cast(Cache, self.cache).batch_select_indices(index_R)


class _HalfEnded(StoppingCriteria):
    """Stops all rows once half of them have said a stop token."""

    def __init__(self, stop_ids: Sequence[int], rows: int, device: torch.device) -> None:
        self._stop_S = torch.tensor(list(stop_ids), dtype=torch.long, device=device)
        self._ended_B = torch.zeros(rows, dtype=torch.bool, device=device)

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        self._ended_B |= torch.isin(input_ids[:, -1], self._stop_S)
        half = 2 * self._ended_B.sum() >= len(self._ended_B)
        return cast(torch.BoolTensor, half.expand_as(self._ended_B))


def _answered(
    model: PreTrainedModel, batch: _Batch, *, decoding: Decoding, stop_ids: Sequence[int], pad_id: int
) -> list[list[int]]:
    """New tokens of each row, with the stop token and padding behind it where it ended.

    Where keys and values are kept here, half-ended batches go on without the rows that ended.
    """
    start = batch.ids_BT.shape[1]
    end = start + decoding.max_new_tokens
    found: list[list[int]] = [[] for _ in range(len(batch.ids_BT))]
    going = list(range(len(found)))
    while going:
        output_BT = _go_on(model, batch, end=end, decoding=decoding, stop_ids=stop_ids, pad_id=pad_id)
        new = output_BT[:, start:].tolist()
        for place, ids in zip(going, new, strict=True):
            found[place] = ids
        still = [row for row, ids in enumerate(new) if not set(stop_ids).intersection(ids)]
        if output_BT.shape[1] == end or not still:
            break
        going = [going[row] for row in still]
        batch.keep(still, output_BT)
    return found


def _go_on(
    model: PreTrainedModel,
    batch: _Batch,
    *,
    end: int,
    decoding: Decoding,
    stop_ids: Sequence[int],
    pad_id: int,
) -> torch.Tensor:
    """The rows of the batch after more tokens: until `end`, or until half (without a cache all) ended."""
    more: dict[str, object] = {"adapter_names": batch.names} if batch.names else {}
    if batch.cache is not None:
        more["past_key_values"] = batch.cache
        more["stopping_criteria"] = [_HalfEnded(stop_ids, len(batch.ids_BT), batch.ids_BT.device)]
    left = replace(decoding, max_new_tokens=end - batch.ids_BT.shape[1])
    return _generate(
        model,
        input_ids=batch.ids_BT,
        attention_mask=batch.mask_BT,
        generation_config=_generation_config(left, stop_ids, pad_id),
        **more,
    )


def _generate(model: PreTrainedModel, **arguments: object) -> torch.Tensor:
    """`model.generate`, by the given configuration alone.

    transformers fills what a configuration leaves open from the model's own, which may hold a repetition
    penalty or a shortest answer; for the time of the call the model has none.
    """
    bare = bare_model(model)
    own = bare.generation_config
    bare.generation_config = GenerationConfig()
    try:
        return cast(Callable[..., torch.Tensor], model.generate)(**arguments)
    finally:
        bare.generation_config = own


def _generation_config(decoding: Decoding, stop_ids: Sequence[int], pad_id: int) -> GenerationConfig:
    """All that is asked for; `top_k` is stated because transformers' own default, 50, cuts samples."""
    is_sampling = decoding.temperature > 0
    sampling = (
        {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0} if is_sampling else {}
    )
    return GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=is_sampling,
        eos_token_id=list(stop_ids),
        pad_token_id=pad_id,
        **sampling,
    )


def _batches(prompts: Sequence[Sequence[int]], *, answer_tokens: int, most_rows: int) -> list[list[int]]:
    """Indices of prompts that are answered together, long ones first, by what a batch holds in the end."""
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    batches: list[list[int]] = []
    while order:
        longest = len(prompts[order[0]]) + answer_tokens
        if not batches:
            budget_tokens = most_rows * longest
        rows = min(budget_tokens // longest, MOST_ROWS_FACTOR * most_rows)
        batches.append(order[:rows])
        order = order[rows:]
    return batches


def _prefix(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], *, decoding: Decoding, is_mixed: bool
) -> Prefix | None:
    """The model's keys and values of what all prompts share; None where the model keeps its own."""
    longest = max(map(len, prompts), default=0)
    if not prompts or not can_keep(model, tokens=longest + decoding.max_new_tokens):
        return None
    return compute_prefix(model, prompts[0][: 0 if is_mixed else shared_tokens(prompts)])


def _batch(
    prompts: Sequence[Sequence[int]],
    *,
    prefix: Prefix | None,
    answer_tokens: int,
    pad_id: int,
    device: torch.device,
) -> _Batch:
    """Padding lies between what all share and what is the row's own."""
    longest, shared = max(map(len, prompts)), prefix.tokens if prefix else 0
    rows, mask = [], []
    for ids in prompts:
        padding = longest - len(ids)
        rows.append([*ids[:shared], *[pad_id] * padding, *ids[shared:]])
        mask.append([1] * shared + [0] * padding + [1] * (len(ids) - shared))
    cache = prefix.cache(rows=len(rows), room_tokens=longest + answer_tokens) if prefix else None
    return _Batch(torch.tensor(rows, device=device), torch.tensor(mask, device=device), cache)


def _until_stop(ids: Sequence[int], stop_ids: Sequence[int]) -> list[int]:
    end = next((index for index, token_id in enumerate(ids) if token_id in stop_ids), len(ids))
    return list(ids[:end])

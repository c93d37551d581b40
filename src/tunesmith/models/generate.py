"""Answers from a model: batched for files and evaluation, streamed for chat. Ids in, ids out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, TextStreamer


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

    Prompts of similar length share a batch; a batch ends when all its rows have ended.

    Args:
        model: a causal language model.
        prompts: token ids of each prompt.
        decoding: how tokens are chosen.
        stop_ids: tokens that end an answer.
        pad_id: fills batches on the left.
        batch_rows: rows in one batch.
        on_rows: told the rows of each batch when it is done.
        adapter_names: for each prompt, peft's name of the adapter that answers it; by default the active one.
    """
    torch.manual_seed(decoding.seed)
    config = _generation_config(decoding, stop_ids, pad_id)
    answers: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for at in range(0, len(order), batch_rows):
        indices = order[at : at + batch_rows]
        input_ids_BT, mask_BT = _left_padded([prompts[index] for index in indices], pad_id, model.device)
        mixed = {"adapter_names": [adapter_names[index] for index in indices]} if adapter_names else {}
        with torch.inference_mode():
            output_BT = _generate(
                model, input_ids=input_ids_BT, attention_mask=mask_BT, generation_config=config, **mixed
            )
        for index, new_T in zip(indices, output_BT[:, input_ids_BT.shape[1] :].tolist(), strict=True):
            answers[index] = _until_stop(new_T, stop_ids)
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


def _generate(model: PreTrainedModel, **arguments: object) -> torch.Tensor:
    """`model.generate`, by the given configuration alone.

    transformers fills what a configuration leaves open from the model's own, which may hold a repetition
    penalty or a shortest answer; for the time of the call the model has none.
    """
    bare: Any = cast(Any, model).get_base_model() if hasattr(model, "get_base_model") else model
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


def _left_padded(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, prompts))
    input_ids_BT = torch.tensor(
        [[pad_id] * (longest - len(ids)) + list(ids) for ids in prompts], device=device
    )
    mask_BT = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
    return input_ids_BT, mask_BT


def _until_stop(ids: Sequence[int], stop_ids: Sequence[int]) -> list[int]:
    end = next((index for index, token_id in enumerate(ids) if token_id in stop_ids), len(ids))
    return list(ids[:end])

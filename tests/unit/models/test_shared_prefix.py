"""What prompts share is read once, rows that ended leave, and answers are what plain generation gives."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    Gemma3TextConfig,
    GenerationConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
)
from transformers.cache_utils import DynamicLayer

from tunesmith.config import MethodConfig
from tunesmith.methods import adapter, lora, prefix
from tunesmith.models.generate import Decoding, generate_ids
from tunesmith.models.shared_prefix import RoomyLayer, can_keep, compute_prefix, shared_tokens

PAD, SHARED, NEW = 0, 40, 12
OWN = (5, 1, 9, 9, 2, 14, 3)
GREEDY = Decoding(max_new_tokens=NEW)
SHAPE = {
    "vocab_size": 272,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "initializer_range": 0.25,
}
GPT2 = GPT2Config(
    vocab_size=272,
    n_embd=32,
    n_layer=3,
    n_head=4,
    n_positions=256,
    bos_token_id=1,
    eos_token_id=2,
    tie_word_embeddings=False,
    initializer_range=0.25,
)
FAMILIES = {
    "llama": LlamaConfig(**SHAPE),
    "gpt2": GPT2,
    "qwen2": Qwen2Config(**SHAPE),
    "phi3": Phi3Config(**SHAPE),
    "mistral": MistralConfig(**SHAPE, sliding_window=200),
    "mistral-narrow": MistralConfig(**SHAPE, sliding_window=16),
    "gemma3": Gemma3TextConfig(
        **SHAPE, head_dim=8, sliding_window=100, layer_types=["sliding_attention"] * 2 + ["full_attention"]
    ),
    "gemma3-narrow": Gemma3TextConfig(
        **SHAPE, head_dim=8, sliding_window=16, layer_types=["sliding_attention"] * 2 + ["full_attention"]
    ),
}
NARROW = {name for name in FAMILIES if name.endswith("narrow")}


def lively(config):
    """A random model with large weights: each choice hangs on all tokens before, not on the last bits."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def some_prompts(*, shared=SHARED):
    generator = torch.Generator().manual_seed(1)
    head = torch.randint(3, 259, (shared,), generator=generator).tolist()
    return [head + torch.randint(3, 259, (own,), generator=generator).tolist() for own in OWN]


def plain(model, prompt, *, stop_ids=()):
    """The answer of `model.generate` alone to this prompt alone, up to its stop token."""
    config = GenerationConfig(
        max_new_tokens=NEW, do_sample=False, eos_token_id=list(stop_ids), pad_token_id=PAD
    )
    ids_1T = torch.tensor([prompt])
    with torch.no_grad():
        out = model.generate(
            input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T), generation_config=config
        )
    new = out[0, len(prompt) :].tolist()
    return new[: next((at for at, token in enumerate(new) if token in stop_ids), len(new))]


def answers(model, prompts, *, decoding=GREEDY, stop_ids=(), **settings):
    return generate_ids(model, prompts, decoding=decoding, stop_ids=stop_ids, pad_id=PAD, **settings)


class ReadTokens:
    """Counts the tokens that go through a model's embedding."""

    def __init__(self, model):
        self.tokens = 0
        model.get_input_embeddings().register_forward_hook(self._count)

    def _count(self, module, inputs, output):
        self.tokens += inputs[0].numel()


def scattered_stops(model, prompts):
    """Stop tokens at which rows end one after another."""
    whole = [plain(model, prompt) for prompt in prompts]
    return {ids[at] for at, ids in zip((2, 5, 0, 8), whole, strict=False)}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("batch_rows", [1, 3, 16])
def test_answers_are_those_of_plain_generation_row_by_row(name, batch_rows):
    model, prompts = lively(FAMILIES[name]), some_prompts()
    stop_ids = scattered_stops(model, prompts)
    expected = [plain(model, prompt, stop_ids=stop_ids) for prompt in prompts]
    assert len({len(ids) for ids in expected}) > 2
    assert answers(model, prompts, stop_ids=tuple(stop_ids), batch_rows=batch_rows) == expected
    whole = [plain(model, prompt) for prompt in prompts]
    assert answers(model, prompts, batch_rows=batch_rows) == whole


@pytest.mark.parametrize("name", FAMILIES)
def test_shared_tokens_are_read_once_and_only_where_a_window_sees_them(name):
    model, prompts = lively(FAMILIES[name]), some_prompts()
    read = ReadTokens(model)
    answers(model, prompts, decoding=Decoding(max_new_tokens=1), batch_rows=16)
    if name in NARROW:
        assert read.tokens == len(prompts) * (SHARED + max(OWN))
    else:
        assert read.tokens == SHARED + len(prompts) * max(OWN)


def test_rows_that_ended_are_not_computed_any_more():
    model, prompts = lively(FAMILIES["llama"]), some_prompts()
    whole = [plain(model, prompt) for prompt in prompts]
    stop_ids = {ids[0] for ids in whole[1:]} - set(whole[0])
    assert sum(bool(stop_ids.intersection(ids[:1])) for ids in whole) >= 4
    read = ReadTokens(model)
    found = answers(model, prompts, stop_ids=tuple(stop_ids), batch_rows=16)
    assert found[0] == whole[0]
    left = sum(not stop_ids.intersection(ids[:1]) for ids in whole)
    assert read.tokens <= SHARED + len(prompts) * max(OWN) + left * (NEW - 1)


def test_one_prompt_and_equal_prompts_are_answered():
    model = lively(FAMILIES["llama"])
    prompt = some_prompts()[0]
    assert answers(model, [prompt] * 5) == [plain(model, prompt)] * 5
    assert answers(model, [prompt]) == [plain(model, prompt)]


def test_prompt_that_is_all_shared_still_is_answered():
    """Its last token must be read with the row: it is what the first new token follows."""
    model, prompts = lively(FAMILIES["llama"]), some_prompts()
    prompts.append(prompts[0][:SHARED])
    assert shared_tokens(prompts) == SHARED - 1
    assert answers(model, prompts) == [plain(model, prompt) for prompt in prompts]


def moved(model):
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight), alpha=0.2)
    return model.eval()


METHODS = {
    "lora": lambda model: lora.prepare(model, MethodConfig(rank=4)),
    "adapter": lambda model: adapter.prepare(model, MethodConfig(name="adapter", reduction_factor=4)),
    "prefix": lambda model: prefix.prepare(model, MethodConfig(name="prefix", num_virtual_tokens=5)),
}


@pytest.mark.parametrize("name", METHODS)
def test_tuned_models_answer_as_plain_generation_does(name):
    model, prompts = moved(METHODS[name](lively(FAMILIES["llama"]))), some_prompts()
    stop_ids = scattered_stops(model, prompts)
    expected = [plain(model, prompt, stop_ids=stop_ids) for prompt in prompts]
    assert answers(model, prompts, stop_ids=tuple(stop_ids), batch_rows=4) == expected
    assert can_keep(model, tokens=70) == (name in ("lora", "adapter"))


def test_rows_of_several_adapters_share_a_batch_but_no_keys():
    """Each row as its adapter alone: with the keys of one for all, the others would answer otherwise."""
    model = get_peft_model(
        lively(FAMILIES["llama"]), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    model.add_adapter("second", LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.manual_seed(4)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn_like(weight) * 0.3)
    model.eval()
    prompts = some_prompts()
    names = ["default", "second", "__base__", "second", "default", "default", "second"]
    alone = []
    for name, prompt in zip(names, prompts, strict=True):
        if name == "__base__":
            with model.disable_adapter():
                alone.append(plain(model, prompt))
        else:
            model.set_adapter(name)
            alone.append(plain(model, prompt))
    model.set_adapter("default")
    stop_ids = {alone[0][2], alone[1][5], alone[3][0]}
    found = answers(model, prompts, stop_ids=tuple(stop_ids), adapter_names=names)
    cut = [ids[: next((at for at, t in enumerate(ids) if t in stop_ids), len(ids))] for ids in alone]
    assert found == cut


def test_samples_after_a_shared_beginning_are_repeatable():
    model, prompts = lively(FAMILIES["llama"]), some_prompts()
    sampled = Decoding(max_new_tokens=NEW, temperature=1.0, seed=5)
    stop_ids = tuple(range(3, 30))
    first = answers(model, prompts, decoding=sampled, stop_ids=stop_ids)
    assert answers(model, prompts, decoding=sampled, stop_ids=stop_ids) == first
    other = Decoding(max_new_tokens=NEW, temperature=1.0, seed=6)
    assert answers(model, prompts, decoding=other, stop_ids=stop_ids) != first


def test_samples_after_a_shared_beginning_follow_the_probabilities():
    """First tokens of 4,000 rows: each token as often as its probability says, by a chi-square of 5 sigma."""
    model, rows = lively(FAMILIES["llama"]), 4000
    prompt = some_prompts()[0]
    with torch.no_grad():
        chance_V = model(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(0).double()
    sampled = Decoding(max_new_tokens=1, temperature=1.0)
    found = answers(model, [prompt] * rows, decoding=sampled, batch_rows=rows)
    often_V = torch.bincount(torch.tensor([ids[0] for ids in found]), minlength=272).double()
    common = chance_V * rows >= 5
    expected, seen = chance_V[common] * rows, often_V[common]
    degrees = int(common.sum())
    assert degrees > 5
    assert ((seen - expected) ** 2 / expected).sum() < degrees + 5 * (2 * degrees) ** 0.5


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ([[7] * 200 + [1], [7] * 200 + [2]], 200),
        ([[7] * 32 + [1], [7] * 32 + [2]], 32),
        ([[7] * 31 + [1], [7] * 31 + [2]], 0),
        ([[7] * 4 + [number] for number in range(9)], 4),
        ([[7] * 200], 0),
        ([[7] * 100, [7] * 100], 99),
        ([[1] * 100, [2] * 100], 0),
        ([[7] * 100, [7] * 100, [8]], 0),
    ],
)
def test_shared_tokens_are_the_common_beginning_where_it_pays(prompts, expected):
    assert shared_tokens(prompts) == expected
    assert shared_tokens(prompts[::-1]) == expected


def test_model_without_keys_and_values_keeps_its_own_state():
    config = MambaConfig(
        vocab_size=272, hidden_size=32, num_hidden_layers=2, state_size=4, eos_token_id=2, pad_token_id=PAD
    )
    assert not can_keep(lively(config), tokens=10)


def test_no_shared_tokens_make_an_empty_prefix():
    found = compute_prefix(lively(FAMILIES["llama"]), [])
    assert (found.tokens, found.states, found.layers) == (0, (), 3)
    assert found.cache(rows=2, room_tokens=4).get_seq_length() == 0


def test_roomy_layer_holds_what_upstream_s_layer_holds():
    torch.manual_seed(0)
    ours, theirs = RoomyLayer(9), DynamicLayer()
    for tokens in (4, 1, 1, 0):
        states = torch.randn(5, 2, tokens, 3), torch.randn(5, 2, tokens, 6)
        for mine, other in zip(ours.update(*states), theirs.update(*states), strict=True):
            assert torch.equal(mine, other)
    for layer in (ours, theirs):
        layer.batch_select_indices(torch.tensor([4, 0, 2]))
    more = torch.randn(3, 2, 1, 3), torch.randn(3, 2, 1, 6)
    for mine, other in zip(ours.update(*more), theirs.update(*more), strict=True):
        assert torch.equal(mine, other)
    assert ours.get_seq_length() == theirs.get_seq_length() == 7
    for layer in (ours, theirs):
        layer.crop(-2)
    for mine, other in zip(ours.update(*more), theirs.update(*more), strict=True):
        assert torch.equal(mine, other)


def test_cache_begins_with_the_prefix_in_each_row():
    model = lively(FAMILIES["llama"])
    ids = some_prompts()[0][:8]
    theirs = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]), past_key_values=theirs, use_cache=True)
        cache = compute_prefix(model, ids).cache(rows=3, room_tokens=20)
    for mine, other in zip(cache.layers, theirs.layers, strict=True):
        for row in range(3):
            torch.testing.assert_close(mine.keys[row], other.keys[0])
            torch.testing.assert_close(mine.values[row], other.values[0])

"""Answers: one by one or together, stopped at the end of turn, repeatable by seed."""

import pytest
import torch
from transformers import GenerationConfig

from tiny import tiny_model, tiny_tokenizer
from tunesmith.config import MethodConfig
from tunesmith.methods import lora
from tunesmith.models.generate import Decoding, generate_ids, stream_answer

PAD, END = 0, 2
LENGTHS = (4, 23, 1, 9, 9, 16, 3)
GREEDY = Decoding(max_new_tokens=12)
SAMPLED = Decoding(max_new_tokens=12, temperature=1.0, seed=5)
NEVER = ()


def sharp_model(*, factor=10):
    """Sharper than at random, so that the greedy choice does not hang on the last bits of a sum."""
    model = tiny_model()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(factor)
    return model


@pytest.fixture(scope="module")
def model():
    return sharp_model()


@pytest.fixture(scope="module")
def prompts():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 259, (length,), generator=generator).tolist() for length in LENGTHS]


def answers(model, prompts, *, decoding=GREEDY, stop_ids=(END,), **settings):
    return generate_ids(model, prompts, decoding=decoding, stop_ids=stop_ids, pad_id=PAD, **settings)


def greedy_by_hand(model, prompt, *, tokens):
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(tokens):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_greedy_answer_is_the_likeliest_token_again_and_again(model, prompts):
    found = answers(model, prompts, stop_ids=NEVER)
    assert found == [greedy_by_hand(model, prompt, tokens=12) for prompt in prompts]
    assert len({tuple(answer) for answer in found}) > 1


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 7, 50])
def test_batched_answers_equal_one_by_one_in_the_order_of_the_prompts(model, prompts, batch_rows):
    alone = [answers(model, [prompt])[0] for prompt in prompts]
    assert answers(model, prompts, batch_rows=batch_rows) == alone


def test_answer_ends_before_the_first_stop_token(model, prompts):
    whole = answers(model, prompts, stop_ids=NEVER)
    stop_ids = {whole[0][3], whole[1][5]}
    found = answers(model, prompts, stop_ids=tuple(stop_ids))
    for short, long in zip(found, whole, strict=True):
        cut = next((at for at, token_id in enumerate(long) if token_id in stop_ids), len(long))
        assert short == long[:cut]
    assert len(found[0]) <= 3
    assert len(found[1]) <= 5


def test_row_that_ended_says_nothing_while_others_go_on(model, prompts):
    """Its padding must not be taken for text, also where the pad token is no stop token."""
    whole = answers(model, prompts, stop_ids=NEVER)
    found = answers(model, prompts, stop_ids=(whole[0][0],))
    assert found[0] == []
    assert max(map(len, found)) == 12


@pytest.mark.parametrize("max_new_tokens", [1, 5])
def test_answer_is_never_longer_than_allowed(model, prompts, max_new_tokens):
    found = answers(model, prompts, decoding=Decoding(max_new_tokens=max_new_tokens), stop_ids=NEVER)
    assert {len(answer) for answer in found} == {max_new_tokens}


def test_same_seed_gives_the_same_samples_and_another_seed_others(model, prompts):
    first = answers(model, prompts, decoding=SAMPLED)
    torch.rand(17)
    assert answers(model, prompts, decoding=SAMPLED) == first
    other = Decoding(max_new_tokens=12, temperature=1.0, seed=6)
    assert answers(model, prompts, decoding=other) != first


def test_seed_does_not_matter_to_greedy_answers(model, prompts):
    other = Decoding(max_new_tokens=12, seed=99)
    assert answers(model, prompts, decoding=other) == answers(model, prompts)


def test_sampling_from_almost_no_probability_mass_is_greedy(model, prompts):
    narrow = Decoding(max_new_tokens=12, temperature=1.0, top_p=1e-6)
    assert answers(model, prompts, decoding=narrow) == answers(model, prompts)


def test_samples_follow_the_probabilities_at_the_asked_temperature():
    """4,000 first tokens at temperature 2: the mean of their log-probability is its expectation."""
    model, rows, temperature = sharp_model(factor=5), 4000, 2.0
    with torch.no_grad():
        logits_V = model(input_ids=torch.tensor([[5, 6]])).logits[0, -1]
    chance_V = (logits_V / temperature).softmax(0)
    expected, spread = moments(chance_V)
    decoding = Decoding(max_new_tokens=1, temperature=temperature)
    found = answers(model, [[5, 6]] * rows, decoding=decoding, stop_ids=NEVER, batch_rows=rows)
    mean = chance_V.log()[[answer[0] for answer in found]].mean()
    assert abs(mean - expected) < 4 * spread / rows**0.5
    assert abs(moments(logits_V.softmax(0), of=chance_V)[0] - expected) > 8 * spread / rows**0.5


def moments(chance_V, *, of=None):
    """Mean and standard deviation of the log-probability under `of` of tokens drawn by `chance_V`."""
    value_V = (chance_V if of is None else of).log()
    mean = (chance_V * value_V).sum()
    return mean, (chance_V * (value_V - mean) ** 2).sum().sqrt()


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED])
@pytest.mark.parametrize("is_adapted", [False, True])
def test_settings_saved_with_the_model_change_nothing(prompts, decoding, is_adapted):
    plain, opinionated = sharp_model(), sharp_model()
    saved = GenerationConfig(
        do_sample=True,
        temperature=5.0,
        top_k=3,
        repetition_penalty=1.9,
        eos_token_id=list(range(3, 200)),
        pad_token_id=9,
        min_new_tokens=8,
    )
    opinionated.generation_config = saved
    asked = lora.prepare(opinionated, MethodConfig(rank=2)).eval() if is_adapted else opinionated
    assert answers(asked, prompts, decoding=decoding) == answers(plain, prompts, decoding=decoding)
    assert opinionated.generation_config is saved


def test_each_batch_tells_its_rows(model, prompts):
    told = []
    answers(model, prompts, batch_rows=3, on_rows=told.append)
    assert told == [3, 4]


def test_no_prompts_give_no_answers(model):
    assert answers(model, []) == []


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED])
def test_streamed_answer_is_the_one_a_file_would_get(model, prompts, decoding, capsys):
    tokenizer = tiny_tokenizer()
    settings = {"decoding": decoding, "stop_ids": (END,), "pad_id": PAD}
    streamed = stream_answer(model, tokenizer, prompts[0], **settings)
    assert [streamed] == generate_ids(model, prompts[:1], **settings)
    printed = capsys.readouterr().out
    assert printed.rstrip("\n") == tokenizer.decode(streamed, skip_special_tokens=True)

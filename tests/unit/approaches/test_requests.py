"""Prompts of every approach: from training rows only, short enough, and what was left out is counted."""

import pytest

from tiny import tiny_tokenizer
from tunesmith.approaches.requests import HeldOut, plan_requests
from tunesmith.approaches.settings import APPROACHES, CompareSettings
from tunesmith.data.conversation import Message, Row
from tunesmith.data.render import Renderer, choose_template
from tunesmith.progress import Silent

COLOURS = ("red", "green", "blue", "black")


def row(at, text=None):
    messages = (
        Message("user", text or f"Paint thing {at} {COLOURS[at % 4]}"),
        Message("assistant", COLOURS[at % 4]),
    )
    return Row(messages, "rows.jsonl", at + 1, "instruction")


@pytest.fixture(scope="module")
def renderer():
    tokenizer = tiny_tokenizer()
    return Renderer(tokenizer, choose_template(tokenizer))


TWO = CompareSettings(shots=2, passages=2)
TRAIN = [row(at) for at in range(12)]
INPUTS = [HeldOut(f"id{at}", row(at), f"prompt {at}", ("red",), {}) for at in (20, 21, 22)]


def plans(renderer, *, room=None, inputs=INPUTS, settings=TWO):
    rooms = dict.fromkeys(APPROACHES, room)
    found = plan_requests(inputs, TRAIN, settings, renderer, seed=3, room_tokens=rooms, progress=Silent())
    return {plan.approach: plan for plan in found}


def length(renderer, held, shown=0):
    """Tokens of the row's prompt behind so many examples of the shortest kind."""
    return len(renderer.prompt_ids(held.row.prompt)) + shown


def test_each_approach_asks_what_it_should(renderer):
    found = plans(renderer)
    assert tuple(found) == APPROACHES
    for at, held in enumerate(INPUTS):
        own = tuple(renderer.prompt_ids(held.row.prompt))
        asked = {name: plan.requests[at] for name, plan in found.items()}
        assert asked["zero-shot"].ids == asked["fine-tuned"].ids == own
        assert asked["rag"] == asked["fine-tuned+rag"]
        for name in ("few-shot", "rag"):
            assert asked[name].ids[-len(own) + 1 :] == own[1:] and len(asked[name].ids) > len(own)
        assert len(asked["rag"].sources) == 2 and asked["few-shot"].sources == ()
        assert all(request.left_out == 0 for request in asked.values())


def test_few_shot_prompts_begin_alike(renderer):
    prompts = [request.ids for request in plans(renderer)["few-shot"].requests]
    longest_own = max(length(renderer, held) for held in INPUTS)
    shared = min(map(len, prompts)) - longest_own
    assert shared > 30
    assert len({prompt[:shared] for prompt in prompts}) == 1


def test_what_does_not_fit_is_left_out_and_counted(renderer):
    whole = plans(renderer)
    for name in ("few-shot", "rag"):
        longest = max(len(request.ids) for request in whole[name].requests)
        cut = plans(renderer, room=longest - 1)[name]
        assert all(len(request.ids) < longest for request in cut.requests)
        assert sum(request.left_out for request in cut.requests) >= 1
        assert cut.requests[0].sources == whole[name].requests[0].sources[: 2 - cut.requests[0].left_out]


def test_an_approach_of_which_nothing_fits_is_impossible_and_the_others_are_not(renderer):
    room = max(length(renderer, held) for held in INPUTS)
    found = plans(renderer, room=room)
    assert [name for name, plan in found.items() if plan.impossible] == ["few-shot", "rag", "fine-tuned+rag"]
    assert found["few-shot"].impossible == (
        f"not one example fits beside any question: a prompt may have {room} tokens"
    )
    assert found["rag"].impossible.startswith("not one passage fits")
    assert len(found["zero-shot"].requests) == 3


def test_a_prompt_too_long_by_itself_is_named(renderer):
    room = length(renderer, INPUTS[0]) - 1
    reason = plans(renderer, room=room)["zero-shot"].impossible
    assert reason.startswith("the prompt of rows.jsonl:21 alone has") and str(room) in reason


def test_a_row_that_asks_the_same_is_never_shown(renderer):
    held = HeldOut("same", row(4), "p", ("red",), {})
    found = plans(renderer, inputs=[held], settings=CompareSettings(shots=12, passages=12))
    for name in ("few-shot", "rag"):
        text = renderer.tokenizer.decode(found[name].requests[0].ids)
        assert text.count("Paint thing 4 red") == 1
    assert "rows.jsonl:5" not in found["rag"].requests[0].sources


def test_documents_come_with_their_sources(renderer, tmp_path):
    (tmp_path / "colours.md").write_text("# Colours\n\nPaint is red or green.\n", encoding="utf-8")
    settings = CompareSettings(approaches=("rag",), documents=tmp_path)
    request = plans(renderer, settings=settings)["rag"].requests[0]
    assert request.sources == ("colours.md:3",)
    assert "Paint is red or green." in renderer.tokenizer.decode(request.ids)

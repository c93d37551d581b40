import json
import re
import string

import pytest

from tunesmith.data.conversation import Message, Row
from tunesmith.data.formats import count_formats, load_rows
from tunesmith.data.split import overlap
from tunesmith.data.tickets import KEYS, generate_tickets, phrases

TRAIN, TEST = generate_tickets(seed=5, train_rows=600, test_rows=200)
PARTED = (
    "first_names",
    "last_names",
    "openings",
    "introductions",
    "sign_offs",
    "closings",
    "orders",
)
# A test phrase may use the cue words of a training phrase, but is another sentence: fewer than half of their
# words together are common to both.
MAX_COMMON_WORDS = 0.5
MAX_MESSAGE_WORDS = 45


def pools():
    """Every pool with a train and a test part, under a name."""
    found = {name: phrases()[name] for name in PARTED}
    for group in ("urgency", "problems"):
        found |= {f"{group}.{label}": pool for label, pool in phrases()[group].items()}
    return found


def literal(template):
    """The words of a template without placeholders and case."""
    return " ".join(re.sub(r"\{\w+\}", " ", template).casefold().split())


def as_row(example):
    prompt = Message("user", example["prompt"])
    messages = (Message("system", example["system"]), prompt, Message("assistant", example["completion"]))
    return Row(messages, "tickets", 1, "prompt_completion")


def test_same_arguments_give_the_same_rows_and_another_seed_does_not():
    assert generate_tickets(seed=5, train_rows=600, test_rows=200) == (TRAIN, TEST)
    assert generate_tickets(seed=6, train_rows=600, test_rows=200) != (TRAIN, TEST)


def test_more_training_rows_continue_the_same_sequence():
    assert generate_tickets(seed=5, train_rows=50, test_rows=0) == (TRAIN[:50], [])


def test_tickets_can_be_read_off_their_messages():
    for example in TRAIN + TEST:
        ticket = json.loads(example["completion"])
        assert tuple(ticket) == KEYS
        assert ticket["product"] in example["prompt"]
        assert ticket["customer"] in example["prompt"]
        numbers = re.findall(r"\b(?:[A-H]-)?\d{4}\b", example["prompt"])
        assert numbers == ([ticket["order"]] if ticket["order"] else [])


def test_no_urgency_but_the_labelled_one_is_spoken_of_and_normal_may_be_unspoken():
    for example in TRAIN + TEST:
        label = json.loads(example["completion"])["urgency"]
        spoken = {
            level
            for level, parts in phrases()["urgency"].items()
            if any(phrase in example["prompt"] for phrase in parts["train"] + parts["test"])
        }
        assert spoken == {label} or (label == "normal" and not spoken)


def test_some_messages_ask_for_nothing_and_some_ask_calmly():
    for part, examples in (("train", TRAIN), ("test", TEST)):
        calm = [row["prompt"] for row in examples if json.loads(row["completion"])["urgency"] == "normal"]
        asking = [any(ask in text for ask in phrases()["urgency"]["normal"][part]) for text in calm]
        assert any(asking) and not all(asking)


def test_output_is_compact_json():
    for example in TRAIN:
        assert (
            json.dumps(json.loads(example["completion"]), separators=(",", ":"), ensure_ascii=False)
            == example["completion"]
        )


def test_messages_are_unique_short_and_free_of_placeholders():
    messages = [example["prompt"] for example in TRAIN + TEST]
    assert len({message.casefold() for message in messages}) == len(messages)
    assert all(len(message.split()) <= MAX_MESSAGE_WORDS for message in messages)
    assert not any("{" in message for message in messages)


def test_no_test_prompt_is_a_training_prompt():
    assert overlap([as_row(example) for example in TRAIN], [as_row(example) for example in TEST]) == 0


@pytest.mark.parametrize("name", pools())
def test_phrases_of_training_and_test_are_disjoint_and_many(name):
    pool = pools()[name]
    train, test = ([literal(phrase) for phrase in pool[part]] for part in ("train", "test"))
    assert len(set(train)) == len(train) >= 2 * len(test)
    assert len(set(test)) == len(test) >= 4
    assert not set(train) & set(test)


@pytest.mark.parametrize("name", [name for name in pools() if "." in name])
def test_no_test_sentence_rewords_a_training_sentence_by_a_word_or_two(name):
    for test in pools()[name]["test"]:
        for train in pools()[name]["train"]:
            ours, theirs = (set(re.findall(r"[\w'-]+", literal(text))) for text in (test, train))
            assert len(ours & theirs) < MAX_COMMON_WORDS * len(ours | theirs), (test, train)


@pytest.mark.parametrize("name", sorted(set(pools()) - {"first_names", "last_names"}))
def test_no_training_message_holds_a_test_phrase_nor_the_other_way_round(name):
    for part, examples in (("test", TRAIN), ("train", TEST)):
        for phrase in pools()[name][part]:
            filled = re.escape(phrase)
            for field in ("product", "order", "customer"):
                filled = filled.replace(re.escape("{" + field + "}"), ".+?")
            pattern = re.compile(rf"(?:^|(?<=[\s])){filled}(?:\s|$)", re.MULTILINE)
            assert not any(pattern.search(example["prompt"]) for example in examples), phrase


def test_placeholders_are_those_of_a_ticket():
    for name, pool in pools().items():
        used = {
            field
            for phrase in pool["train"] + pool["test"]
            for _, field, _, _ in string.Formatter().parse(phrase)
            if field
        }
        needed = {"orders": {"order"}, "introductions": {"customer"}, "sign_offs": {"customer"}}
        expected = {"product"} if name.startswith("problems.") else needed.get(name, used & {"product"})
        assert used == expected, name


def test_no_phrase_needs_an_article_that_fits_the_product():
    texts = [text for pool in pools().values() for text in pool["train"] + pool["test"]]
    assert not [text for text in texts if re.search(r"\ban? \{product\}", text)]


def test_some_test_names_are_seen_in_training_and_some_are_not():
    seen = {json.loads(example["completion"])["customer"] for example in TRAIN}
    known = [json.loads(example["completion"])["customer"] in seen for example in TEST]
    assert any(known) and not all(known)


def test_every_label_occurs_in_both_parts():
    for examples in (TRAIN, TEST):
        tickets = [json.loads(example["completion"]) for example in examples]
        assert {ticket["category"] for ticket in tickets} == set(phrases()["problems"])
        assert {ticket["urgency"] for ticket in tickets} == set(phrases()["urgency"])
        assert {ticket["order"] is None for ticket in tickets} == {True, False}


def test_generated_file_loads_as_prompts_and_completions(tmp_path):
    path = tmp_path / "tickets.jsonl"
    path.write_text("".join(json.dumps(example) + "\n" for example in TRAIN), encoding="utf-8")
    rows = load_rows(path)
    assert count_formats(rows) == {"prompt_completion": len(TRAIN)}
    assert [row.messages[1].content for row in rows] == [example["prompt"] for example in TRAIN]

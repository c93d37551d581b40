import json
import re
from collections import Counter
from copy import deepcopy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.formats import to_row
from tunesmith.data.generate.perturb import KINDS, perturb
from tunesmith.data.generate.perturb_turn import phrases
from tunesmith.data.records import Record
from tunesmith.data.tickets import generate_tickets
from tunesmith.errors import DataError

TICKETS, _ = generate_tickets(seed=3, train_rows=200, test_rows=0)
OUTPUT = list(perturb(TICKETS, seed=1))
PROMPT = "The red lamp broke on Monday. My neighbour bought a chair. Could you send me a new lamp?"
ANSWER = '{"product": "red lamp", "request": "replacement"}'
SHAPES = [
    {"prompt": PROMPT, "completion": ANSWER, "note": {"kept": [1, 2]}},
    {"instruction": PROMPT, "input": "", "output": ANSWER, "history": [["Hello there", "Hello"]]},
    {
        "messages": [
            {"role": "system", "content": "Answer in JSON."},
            {"role": "user", "content": "Hello, my friend."},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": PROMPT},
            {"role": "assistant", "content": ANSWER},
        ]
    },
    {"conversations": [{"from": "human", "value": PROMPT}, {"from": "gpt", "value": ANSWER}]},
    {
        "prompt": [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}],
        "completion": [{"role": "assistant", "content": ANSWER}],
    },
]


def words(text):
    return re.findall(r"\w+", text)


def row_of(record):
    return to_row(Record(1, dict(record)), path="test")


def one(prompt, answer, kind, seed=0):
    """The only output of a kind, or None."""
    found = list(perturb([{"prompt": prompt, "completion": answer}], kinds=[kind], seed=seed))
    assert len(found) <= 1
    return found[0] if found else None


def of_kind(kind):
    return [(source(output), output) for output in OUTPUT if output["perturbation"] == kind]


ORDER = {}
for _ticket in TICKETS:
    for _made in perturb([_ticket], seed=1):
        ORDER[json.dumps(_made)] = _ticket


def source(output):
    return ORDER[json.dumps(output)]


def test_a_record_becomes_the_same_whatever_stands_around_it():
    alone = [output for ticket in TICKETS for output in perturb([ticket], seed=1)]
    assert alone == OUTPUT
    backwards = list(perturb(TICKETS[::-1], kinds=KINDS[::-1], seed=1))
    assert sorted(map(json.dumps, backwards)) == sorted(map(json.dumps, OUTPUT))
    assert list(perturb(TICKETS, seed=2)) != OUTPUT


def test_every_kind_changes_many_tickets_and_each_record_gives_one_of_a_kind_at_most():
    counts = Counter(output["perturbation"] for output in OUTPUT)
    assert set(counts) == set(KINDS)
    assert all(counts[kind] >= 190 for kind in KINDS if kind != "reordering") and counts["reordering"] >= 20
    assert max(Counter((id(source(o)), o["perturbation"]) for o in OUTPUT).values()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_prompt_changes_and_the_answer_only_for_entities(kind):
    for original, output in of_kind(kind):
        assert output["prompt"] != original["prompt"]
        assert (output["completion"] == original["completion"]) == (kind != "entities")
        assert output["system"] == original["system"]


@pytest.mark.parametrize(
    "record", SHAPES, ids=["prompt", "instruction", "messages", "conversations", "parts"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_in_each_shape_only_the_last_user_turn_changes(record, kind):
    before = deepcopy(record)
    [output] = perturb([record], kinds=[kind], seed=5)
    assert record == before
    assert output.pop("perturbation") == kind
    assert output.keys() == record.keys()
    old, new = row_of(record), row_of(output)
    assert new.format == old.format
    assert new.messages[:-2] == old.messages[:-2]
    assert new.messages[-2].text != old.messages[-2].text
    assert (new.reference == old.reference) == (kind != "entities")


def test_the_output_is_a_deep_copy_with_its_line():
    record = Record(17, deepcopy(SHAPES[0]))
    [output] = perturb([record], kinds=["typos"], seed=1)
    assert output["original_line"] == 17
    output["note"]["kept"].append(3)
    assert record.value == SHAPES[0]


def test_typos_come_in_one_word_of_twelve_and_never_in_digits_or_words_of_the_answer():
    for original, output in of_kind("typos"):
        old, new = original["prompt"].split(), output["prompt"].split()
        assert len(old) == len(new)
        changed = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
        assert 1 <= len(changed) <= max(1, round(len(old) / 12))
        values = {
            word for value in json.loads(original["completion"]).values() for word in words(value or "")
        }
        for before, after in changed:
            assert abs(len(before) - len(after)) <= 1 and before[0] == after[0]
            assert not re.search(r"\d", before + after) and not set(words(before)) & values


def test_case_changes_nothing_but_case_and_keeps_what_the_answer_takes():
    styles = set()
    for original, output in of_kind("case"):
        assert output["prompt"].casefold() == original["prompt"].casefold()
        for value in json.loads(original["completion"]).values():
            value = re.compile(rf"\b{re.escape(value or '')}\b")
            assert len(value.findall(original["prompt"])) == len(value.findall(output["prompt"]))
        styles.add(output["prompt"].split()[0])
    assert {"HELLO", "hello"} <= styles


def test_reordering_keeps_every_word_and_line():
    for original, output in of_kind("reordering"):
        old, new = original["prompt"].split("\n"), output["prompt"].split("\n")
        assert [sorted(line.split()) for line in old] == [sorted(line.split()) for line in new]


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("The lamp broke. It is red.", "{}"),
        ("First open the lid. Then pour the water.", "{}"),
        ("Translate into French. The sky is blue.", "Le ciel est bleu."),
        ("The lamp is red. The chair is green.", "A red lamp and a green chair."),
        ("Dr. Young has a cat. What is new?", "{}"),
        ("Only one sentence stands here.", "{}"),
        ("Name the second of: pears, plums, figs", "plums"),
        ("```\nRun the tests. Read the log.\n```", "{}"),
    ],
    ids=["pronoun", "steps", "translation", "answer-follows", "abbreviation", "single", "nth", "code"],
)
def test_reordering_leaves_alone_what_has_an_order(prompt, answer):
    assert all(one(prompt, answer, "reordering", seed) is None for seed in range(20))


def test_reordering_moves_statements_and_items_but_no_question():
    made = one(PROMPT, ANSWER, "reordering")["prompt"]
    assert made == "My neighbour bought a chair. The red lamp broke on Monday. Could you send me a new lamp?"
    listed = one("What do they have in common: apples, ripe pears, and plums?", "Fruit", "reordering")
    assert listed is None
    made = one("Name what they are: apples, ripe pears, and plums.", "Fruit", "reordering")["prompt"]
    match = re.fullmatch(r"Name what they are: (.+), (.+), and (.+)\.", made)
    assert sorted(match.groups()) == ["apples", "plums", "ripe pears"]


def test_entities_go_from_both_sides_and_the_labels_follow():
    for original, output in of_kind("entities"):
        old, new = json.loads(original["completion"]), json.loads(output["completion"])
        assert old.keys() == new.keys()
        assert (old["category"], old["urgency"]) == (new["category"], new["urgency"])
        for name, value in new.items():
            if value != old[name]:
                assert value in output["prompt"] and old[name] not in output["prompt"]
                assert value not in original["prompt"]
        back = output["prompt"]
        for name, value in new.items():
            back = back.replace(value or "\0", old[name] or "")
        assert len(words(back)) == len(words(original["prompt"]))


def test_entities_are_replaced_as_whole_words_everywhere():
    made = one("Tom has 5 figs. Tom's sister has none. How many has Tom?", "Tom has 5 figs.", "entities")
    new = made["completion"].split()[0]
    assert new in phrases()["unseen"]["male"].split()
    assert made["prompt"] == f"{new} has 5 figs. {new}'s sister has none. How many has {new}?"


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Who was Albert Einstein?", "Albert Einstein was a physicist."),
        ("Who wrote Alice's Adventures in Wonderland?", "Alice's Adventures in Wonderland is by Carroll."),
        ("Sort the names: Tom, Anna", "Anna, Tom"),
        ("Is Tom here? TOM!", "Tom is here."),
        ("What is 12345 plus 1?", "12345 and 1 make 12346."),
        ("What happened in 1969?", "In 1969 people went to the moon."),
        ("What is the capital of France?", "The capital of France is Paris."),
    ],
    ids=["surname", "title", "letters", "spelling", "sum", "year", "knowledge"],
)
def test_entities_leaves_alone_what_the_answer_hangs_on(prompt, answer):
    assert all(one(prompt, answer, "entities", seed) is None for seed in range(10))


def test_entities_of_earlier_turns_stay():
    turns = [
        ("user", "I am Tom."),
        ("assistant", "Hi."),
        ("user", "Call me Tom."),
        ("assistant", "Yes, Tom."),
    ]
    record = {"messages": [{"role": role, "content": content} for role, content in turns]}
    assert list(perturb([record], kinds=["entities"], seed=1)) == []


def test_longer_context_keeps_the_text_and_marks_what_is_added():
    places = set()
    for original, output in of_kind("longer_context"):
        before, found, after = output["prompt"].partition(original["prompt"])
        assert found and bool(before) != bool(after)
        assert (before or after).strip().startswith(("Background (not part", "[Background, can be ignored]"))
        places.add(bool(before))
    assert places == {True, False}


def test_background_sentences_are_many_and_hold_nothing_that_an_answer_could_take():
    background = phrases()["background"]
    assert len(set(background)) >= 20
    assert not re.search(r"\d", " ".join(background))


def test_an_input_stays_at_the_end():
    record = {"instruction": "Name the feeling.", "input": "I won!", "output": "Joy"}
    for seed in range(10):
        [output] = perturb([record], kinds=["longer_context"], seed=seed)
        assert output["input"] == "I won!" and output["instruction"].endswith("\n\nName the feeling.")


@settings(max_examples=80, deadline=None)
@given(
    prompt=st.text().filter(str.strip),
    answer=st.text().filter(str.strip),
    seed=st.integers(0, 9),
)
def test_any_text_gives_changed_records_or_none(prompt, answer, seed):
    record = {"prompt": prompt, "completion": answer}
    for output in perturb([record], seed=seed):
        assert output["prompt"] != prompt
        assert output["perturbation"] == "entities" or output["completion"] == answer


def test_refuses_a_kind_it_does_not_know_at_once():
    with pytest.raises(DataError, match="`typo` is no kind of perturbation") as caught:
        perturb([], kinds=["typo"], seed=1)
    assert caught.value.hint == "did you mean `typos`?"


def test_refuses_a_record_that_is_no_row():
    with pytest.raises(DataError, match="records:2: the row has the keys `text`"):
        list(perturb([SHAPES[0], {"text": "Hello"}], seed=1))

"""What is looked up stands in front of the question, best where it counts most, and gives no answer away."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.approaches.passages import Passage, document_passages, row_passages
from tunesmith.approaches.prompting import is_same_question
from tunesmith.approaches.rag import CITE, cited, rag_from_documents, rag_from_rows
from tunesmith.approaches.retrieval import Index
from tunesmith.data.conversation import Message, Row

WORDS = st.text("ab 早.", min_size=1, max_size=8).filter(str.strip)


def row(*texts: str, system: str | None = None, line: int = 1) -> Row:
    messages = [Message("system", system)] if system is not None else []
    messages += [Message(("user", "assistant")[at % 2], text) for at, text in enumerate(texts)]
    return Row(tuple(messages), "rows.jsonl", line, "messages")


TRAIN = [
    row("When does the shop open?", "At nine.", line=1),
    row("When does the shop close?", "At five.", line=2),
    row("Where is my parcel?", "On its way.", line=3),
    row("包裹在哪里？", "在路上。", line=4),
]
DOCUMENTS = [
    Passage("The shop opens at nine.", "hours.md:3"),
    Passage("The shop closes at five, on Sunday at two.", "hours.md:5"),
    Passage("Parcels abroad take a week.", "parcels.md:1"),
]


def test_similar_rows_are_earlier_turns_and_the_best_is_last() -> None:
    asker = rag_from_rows(Index(row_passages(TRAIN)), 2)
    asked = row("When does the shop close on Sunday?", "At two.", system="Be short.")
    assert asker(asked) == [
        Message("system", "Be short."),
        *TRAIN[0].messages,
        *TRAIN[1].messages,
        Message("user", "When does the shop close on Sunday?"),
    ]
    assert [found.passage.row for found in asker.retrieved(asked)] == [TRAIN[1], TRAIN[0]]


def test_chinese_finds_chinese() -> None:
    asker = rag_from_rows(Index(row_passages(TRAIN)), 1)
    assert asker(row("我的包裹呢？", "x"))[:2] == list(TRAIN[3].messages)


@given(
    st.lists(st.builds(row, WORDS, WORDS), max_size=6),
    st.builds(row, WORDS, WORDS, system=st.none() | WORDS),
    st.integers(1, 4),
)
def test_no_row_with_the_same_question_is_shown_and_others_take_its_place(train, asked, count) -> None:
    others = [one for one in train if not is_same_question(one, asked)]
    with_copies = Index([Passage(one.asked, one.place, one) for one in [asked, *train, asked, asked]])
    asker = rag_from_rows(with_copies, count)
    shown = [found.passage.row for found in asker.retrieved(asked)]
    assert not any(is_same_question(one, asked) for one in shown)
    everything = with_copies.search(asked.asked, len(train) + 3)
    assert shown == [one.passage.row for one in everything if one.passage.row in others][:count]
    assert asker(asked)[-1] == asked.prompt[-1]


def test_documents_are_numbered_with_their_sources_before_the_question() -> None:
    asker = rag_from_documents(Index(DOCUMENTS), 2)
    asked = row("Hello", "Hi!", "When does the shop close on Sunday?", "At two.", system="Be short.")
    messages = asker(asked)
    assert messages[:-1] == list(asked.prompt[:-1])
    assert messages[-1].content == (
        f"{CITE}\n\n"
        "[1] (hours.md:5)\nThe shop closes at five, on Sunday at two.\n\n"
        "[2] (hours.md:3)\nThe shop opens at nine.\n\n"
        "When does the shop close on Sunday?"
    )
    assert [found.passage.source for found in asker.retrieved(asked)] == ["hours.md:5", "hours.md:3"]


def test_the_second_field_of_a_question_stays_one() -> None:
    asked = Row(
        (Message("user", "Answer shortly.", "When is the shop open?"), Message("assistant", "x")),
        *("r", 1, "instruction"),
    )
    last = rag_from_documents(Index(DOCUMENTS), 1)(asked)[-1]
    assert last.content.endswith("\n\nAnswer shortly.")
    assert last.input == "When is the shop open?"


def test_where_nothing_is_found_the_row_is_asked_as_it_is() -> None:
    asked = row("斑马?", "x", system="Be short.")
    for asker in (rag_from_documents(Index(DOCUMENTS), 3), rag_from_rows(Index(row_passages(TRAIN)), 3)):
        assert asker(asked) == list(asked.prompt)
        assert asker.retrieved(asked) == []


@pytest.mark.parametrize("most", [0, 1, 2, 3])
def test_the_least_similar_are_left_out_until_the_prompt_fits(most: int) -> None:
    asked = row("When does the shop close? Where is my parcel?", "x")
    rows = rag_from_rows(Index(row_passages(TRAIN)), 3)
    best = rows.retrieved(asked)
    short = rag_from_rows(Index(row_passages(TRAIN)), 3, fits=lambda messages: len(messages) <= 2 * most + 1)
    assert len(best) == 3
    assert short.retrieved(asked) == best[:most]
    assert short(asked)[-3:] == rows(asked)[-min(3, 2 * most + 1) :]

    def fits(messages: list[Message]) -> bool:
        return messages[-1].content.count("(hours.md") + messages[-1].content.count("(parcels.md") <= most

    documents = rag_from_documents(Index(DOCUMENTS), 3, fits=fits)
    whole = rag_from_documents(Index(DOCUMENTS), 3).retrieved(asked)
    assert documents.retrieved(asked) == whole[:most]


def test_a_document_that_is_a_row_with_the_same_question_gives_nothing_away(tmp_path) -> None:
    (tmp_path / "faq.jsonl").write_text(
        '{"instruction": "When does the shop open?", "output": "At nine."}\n'
        '{"instruction": "When does the shop close?", "output": "At five."}\n',
        encoding="utf-8",
    )
    asker = rag_from_documents(Index(document_passages(tmp_path)), 2)
    assert [one.passage.source for one in asker.retrieved(row("when does the shop OPEN?", "At nine."))] == [
        "faq.jsonl:2"
    ]


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [
        ("It opens at nine [1].", [1]),
        ("Nine [2], five [1], nine [2].", [2, 1]),
        ("Both [1, 3] and [2-4].", [1, 3, 2, 4]),
        ("九点【1】，五点［2，3］。", [1, 2, 3]),
        ("[ 7 ]", [7]),
        ("none [0] [a] [] (1) [1999] [1.5]", []),
        ("[3-1] [1-999]", list(range(1, 22))),
        ("", []),
    ],
)
def test_citations_are_read(answer: str, numbers: list[int]) -> None:
    assert cited(answer) == numbers


@given(st.text("[]【】［ 0123459,，-–ab", max_size=60))
def test_any_answer_can_be_read_for_citations(answer: str) -> None:
    numbers = cited(answer)
    assert len(numbers) == len(set(numbers))
    assert all(number > 0 for number in numbers)

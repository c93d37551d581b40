"""Retrieval-augmented asking: look something up for each row, and put it in front of the question.

Similar training rows come as earlier turns, passages of documents as a numbered list to cite from.
A passage of a row that asks the same question is never shown: it would give the answer away.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tunesmith.approaches.prompting import Fits, as_many_as_fit, is_same_question, with_examples
from tunesmith.approaches.retrieval import Found, Searcher
from tunesmith.data.conversation import Message, Row

CITE = (
    "Use these passages where they help. After each statement that rests on one, cite its number in square "
    "brackets, such as [1]. Where none helps, answer from what you know and cite nothing."
)
# Models write full-width brackets in Chinese and Japanese.
_CITATION = re.compile(r"[\[［【]\s*([0-9]{1,3}(?:\s*[,，、;\-–]\s*[0-9]{1,3})*)\s*[\]］】]")
_RANGE = re.compile(r"([0-9]+)(?:\s*[\-–]\s*([0-9]+))?")
_LONGEST_RANGE = 20


@dataclass(frozen=True, slots=True)
class RagAsker:
    """Asks with what was looked up; an `Asker` that also tells what that was.

    Attributes:
        index: what is searched, by the turns of the row without its system message.
        count: most passages to show.
        build: the prompt for a row from what was found, best first.
        fits: whether a prompt is short enough; the least similar passages are left out until it is.
    """

    index: Searcher
    count: int
    build: Callable[[Row, Sequence[Found]], list[Message]]
    fits: Fits | None = None

    def __call__(self, row: Row) -> list[Message]:
        """The messages to ask."""
        return self.ask(row)[0]

    def retrieved(self, row: Row) -> list[Found]:
        """What those messages show, best first; number 1 of a citation is the first."""
        return self.ask(row)[1]

    def ask(self, row: Row) -> tuple[list[Message], list[Found]]:
        """Both, from one search."""
        found = self._allowed(row)
        return as_many_as_fit(found, lambda kept: self.build(row, kept), self.fits)

    def _allowed(self, row: Row) -> list[Found]:
        """The best passages that do not give the row's answer away."""
        wanted = self.count
        while True:
            found = self.index.search(row.asked, wanted)
            allowed = [one for one in found if not _gives_away(one, row)]
            if len(allowed) >= self.count or len(found) < wanted:
                return allowed[: self.count]
            wanted *= 2


def rag_from_rows(index: Searcher, count: int, *, fits: Fits | None = None) -> RagAsker:
    """Asks with the most similar training rows as earlier turns, the best one last.

    Args:
        index: made of `row_passages`.
        count: most rows to show, from 1.
        fits: as in `RagAsker`.
    """
    return RagAsker(index, count, _with_rows, fits)


def rag_from_documents(index: Searcher, count: int, *, fits: Fits | None = None) -> RagAsker:
    """Asks with numbered passages and their sources before the question, to be cited by number.

    Where nothing is found, the row is asked as it is.

    Args:
        index: made of `document_passages`.
        count: most passages to show, from 1.
        fits: as in `RagAsker`.
    """
    return RagAsker(index, count, _with_documents, fits)


def cited(answer: str) -> list[int]:
    """The passage numbers an answer cites, each once, in the order of their first appearance.

    Reads `[1]`, `[1, 3]`, `[2-4]`, and the same in full-width brackets. A number may be of no passage: a
    model can cite what it was never shown.
    """
    numbers: dict[int, None] = {}
    for group in _CITATION.finditer(answer):
        for first, last in _RANGE.findall(group[1]):
            low, high = int(first), int(last or first)
            numbers.update(dict.fromkeys(range(low, min(high, low + _LONGEST_RANGE) + 1)))
    return [number for number in numbers if number > 0]


def _gives_away(found: Found, row: Row) -> bool:
    return found.passage.row is not None and is_same_question(found.passage.row, row)


def _with_rows(row: Row, found: Sequence[Found]) -> list[Message]:
    rows = [one.passage.row for one in reversed(found) if one.passage.row is not None]
    return with_examples(row, rows)


def _with_documents(row: Row, found: Sequence[Found]) -> list[Message]:
    """The row's prompt with the passages in front of its last question."""
    messages = list(row.prompt)
    last = max((at for at, message in enumerate(messages) if message.role == "user"), default=None)
    if last is None or not found:
        return messages
    passages = "\n\n".join(
        f"[{number}] ({one.passage.source})\n{one.passage.text}" for number, one in enumerate(found, start=1)
    )
    question = messages[last]
    messages[last] = replace(question, content=f"{CITE}\n\n{passages}\n\n{question.content}")
    return messages

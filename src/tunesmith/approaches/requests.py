"""What each approach asks for each held-out input: prompts that fit the model's context, as token ids.

Where a prompt is too long, passages or examples are left out one by one until it fits, and counted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tunesmith.approaches.passages import document_passages, row_passages
from tunesmith.approaches.prompting import Asker, Fits, choose_examples, few_shot, zero_shot
from tunesmith.approaches.rag import RagAsker, rag_from_documents, rag_from_rows
from tunesmith.approaches.retrieval import EmbeddingIndex, Index, Searcher, sentence_encoder
from tunesmith.approaches.settings import (
    FEW_SHOT,
    RAG,
    RETRIEVING,
    TUNED,
    TUNED_RAG,
    ZERO_SHOT,
    CompareSettings,
)
from tunesmith.data.conversation import Message, Row
from tunesmith.data.render import Renderer
from tunesmith.progress import Progress

AskerFor = Callable[[Fits], Asker]  # the asker of an approach, which leaves out what does not fit


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One held-out input.

    Attributes:
        id: stable name, as in `evaluation.outputs`.
        row: its first row in the data file.
        prompt: its turns as one text.
        references: the answers of all rows with this prompt.
        slices: groups it belongs to; may be empty.
    """

    id: str
    row: Row
    prompt: str
    references: tuple[str, ...]
    slices: dict[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for one input.

    Attributes:
        input: the held-out input.
        ids: token ids of the prompt.
        left_out: examples or passages left out so that prompt and answer fit.
        sources: where what was retrieved comes from, best first; may be empty.
    """

    input: HeldOut
    ids: tuple[int, ...]
    left_out: int
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """All requests of one approach.

    Attributes:
        approach: its name.
        requests: in the inputs' order; none where the approach is impossible.
        impossible: why it cannot be asked; empty where it can.
    """

    approach: str
    requests: tuple[Request, ...]
    impossible: str = ""


class _Room:
    """Whether prompts fit, and how often one did not since the last `begin`.

    Args:
        renderer: makes the ids.
        tokens: longest prompt, or None for any.
    """

    def __init__(self, renderer: Renderer, tokens: int | None) -> None:
        self._renderer, self.tokens = renderer, tokens
        self.refused = 0
        self._last: tuple[list[Message], list[int]] = ([], [])

    def begin(self) -> None:
        """Count anew."""
        self.refused = 0

    def ids(self, messages: list[Message]) -> list[int]:
        """Ids of a prompt; those of the last one are remembered."""
        if self._last[0] != messages:
            self._last = messages, self._renderer.prompt_ids(messages)
        return self._last[1]

    def holds(self, messages: list[Message]) -> bool:
        """Whether the prompt is short enough."""
        return self.tokens is None or len(self.ids(messages)) <= self.tokens

    def __call__(self, messages: list[Message]) -> bool:
        """As `holds`; each refusal leaves an example or a passage out, so they are counted."""
        fits = self.holds(messages)
        self.refused += not fits
        return fits


def plan_requests(
    inputs: Sequence[HeldOut],
    train: Sequence[Row],
    settings: CompareSettings,
    renderer: Renderer,
    *,
    seed: int,
    room_tokens: Mapping[str, int | None],
    progress: Progress,
) -> list[Plan]:
    """A plan for each approach, in their order.

    Args:
        inputs: held-out inputs, at least one.
        train: rows that examples are chosen from, and that retrieval searches where there are no documents.
        settings: approaches, examples and passages.
        renderer: makes the ids.
        seed: decides the examples.
        room_tokens: by approach the longest prompt its model takes, or None for any.
        progress: gets a bar.

    Raises:
        UserError: if the documents or the embedding model cannot be read.
    """
    askers = _askers(train, settings, seed=seed, progress=progress)
    progress.begin("writing prompts", len(inputs) * len(settings.ordered))
    plans = []
    for name in settings.ordered:
        asker_for = askers[{TUNED: ZERO_SHOT, TUNED_RAG: RAG}.get(name, name)]
        plans.append(_plan(name, asker_for, inputs, _Room(renderer, room_tokens[name]), progress))
    progress.end()
    return plans


def _askers(
    train: Sequence[Row], settings: CompareSettings, *, seed: int, progress: Progress
) -> dict[str, AskerFor]:
    """How each kind of prompt is made."""
    askers: dict[str, AskerFor] = {ZERO_SHOT: lambda fits: zero_shot()}
    if FEW_SHOT in settings.approaches:
        examples = choose_examples(train, count=settings.shots, seed=seed)
        askers[FEW_SHOT] = lambda fits: few_shot(examples, fits=fits)
    if any(name in RETRIEVING for name in settings.approaches):
        documents = settings.documents
        passages = (
            row_passages(train) if documents is None else document_passages(documents, progress=progress)
        )
        index: Searcher
        if settings.embeddings:
            index = EmbeddingIndex(passages, sentence_encoder(settings.embeddings))
        else:
            index = Index(passages)
        rag = rag_from_rows if documents is None else rag_from_documents
        askers[RAG] = lambda fits: rag(index, settings.passages, fits=fits)
    return askers


def _plan(
    approach: str, asker_for: AskerFor, inputs: Sequence[HeldOut], room: _Room, progress: Progress
) -> Plan:
    asker = asker_for(room)
    requests: list[Request] = []
    is_any_shown = False
    for held in inputs:
        room.begin()
        messages, sources = _asked(asker, held.row)
        if not room.holds(messages):
            return Plan(approach, (), _too_long(held.row.place, len(room.ids(messages)), room.tokens))
        is_any_shown |= not room.refused or messages != list(held.row.prompt)
        requests.append(Request(held, tuple(room.ids(messages)), room.refused, sources))
        progress.advance()
    if not is_any_shown:
        what = "example" if approach == FEW_SHOT else "passage"
        return Plan(
            approach, (), f"not one {what} fits beside any question: a prompt may have {room.tokens} tokens"
        )
    return Plan(approach, tuple(requests))


def _asked(asker: Asker, row: Row) -> tuple[list[Message], tuple[str, ...]]:
    """The prompt, and where what was retrieved for it comes from."""
    if not isinstance(asker, RagAsker):
        return asker(row), ()
    messages, found = asker.ask(row)
    return messages, tuple(one.passage.source for one in found)


def _too_long(place: str, tokens: int, room: int | None) -> str:
    return (
        f"the prompt of {place} alone has {tokens} tokens, where the model's context leaves room for {room}"
    )

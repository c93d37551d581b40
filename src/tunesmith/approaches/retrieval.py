"""Find the passages that fit a question: by words (BM25), or by meaning (embeddings, an extra).

BM25 after Robertson and Zaragoza (2009), as bm25s computes it. Words are those of our ROUGE, so that scripts
without blanks are searched by the character. Read next: `rag.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

import bm25s
import numpy as np
from numpy.typing import NDArray

from tunesmith.approaches.passages import Passage
from tunesmith.errors import UserError
from tunesmith.evaluation.scripts import rouge_tokens

EMBEDDING_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
# Two equal texts may differ in the last digits when they are embedded in different batches.
_SCORE_DIGITS = 5

Encode = Callable[[Sequence[str]], NDArray[np.float32]]  # N texts to shape (N, dimensions)


@dataclass(frozen=True, slots=True)
class Found:
    """A passage and how well it fits; scores of one search compare, those of two do not."""

    passage: Passage
    score: float


class Searcher(Protocol):
    """What looks passages up."""

    def search(self, query: str, count: int) -> list[Found]:
        """At most `count` passages that fit, best first, equal ones in the order of the passages."""


class Index:
    """Searches by words.

    Args:
        passages: what can be found; may be empty.
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        self.passages = tuple(passages)
        self._word_ids: dict[str, int] = {}
        ids = [
            [self._word_ids.setdefault(word, len(self._word_ids)) for word in rouge_tokens(passage.text)]
            for passage in self.passages
        ]
        self._bm25 = bm25s.BM25(backend="numpy", csc_backend="numpy")
        if self._word_ids:
            self._bm25.index((ids, self._word_ids), create_empty_token=False, show_progress=False)

    def search(self, query: str, count: int) -> list[Found]:
        """At most `count` passages that share a word with the query, best first, equal ones in order."""
        known = [self._word_ids[word] for word in rouge_tokens(query) if word in self._word_ids]
        if not known:
            return []
        return _best(self.passages, self._bm25.get_scores_from_ids(known), count)


class EmbeddingIndex:
    """Searches by meaning: cosine of embeddings.

    Args:
        passages: what can be found; may be empty.
        encode: texts to embeddings; by default those of `sentence_encoder`.

    Raises:
        UserError: if the default is wanted and cannot be had.
    """

    def __init__(self, passages: Sequence[Passage], encode: Encode | None = None) -> None:
        self.passages = tuple(passages)
        self._encode = encode or sentence_encoder()
        self._vectors = self._unit([passage.text for passage in self.passages]) if self.passages else None

    def search(self, query: str, count: int) -> list[Found]:
        """At most `count` passages whose cosine with the query is above 0, best first."""
        if self._vectors is None:
            return []
        scores = np.round(self._vectors @ self._unit([query])[0], _SCORE_DIGITS)
        return _best(self.passages, scores, count)

    def _unit(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings of length 1, shape (N, dimensions); one of length 0 stays so and is like nothing."""
        vectors = np.asarray(self._encode(texts), dtype=np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def sentence_encoder(model: str = EMBEDDING_MODEL) -> Encode:
    """Embeddings of a sentence-transformers model, on the CPU.

    Args:
        model: a hub id or a local folder, with safetensors weights.

    Raises:
        UserError: if the library is missing, or the model cannot be loaded.
    """
    try:
        library = import_module("sentence_transformers")
    except ImportError:
        raise UserError(
            "search by embeddings needs the library sentence-transformers, which is not installed",
            hint="pip install 'tunesmith[embeddings]', or search by words, which needs nothing",
        ) from None
    try:
        loaded = library.SentenceTransformer(model, device="cpu", model_kwargs={"use_safetensors": True})
    except (OSError, ValueError) as error:
        raise UserError(
            f"the embedding model `{model}` cannot be loaded: {error}",
            hint="give a model folder on this machine, or a hub id while there is a network",
        ) from error

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.asarray(loaded.encode(list(texts), show_progress_bar=False), dtype=np.float32)

    return encode


def _best(passages: Sequence[Passage], scores: NDArray[np.floating], count: int) -> list[Found]:
    """The `count` passages with the highest scores (N,) above 0; equal ones in their order."""
    order = np.argsort(-scores, kind="stable")[: max(count, 0)]
    return [Found(passages[at], float(scores[at])) for at in order if scores[at] > 0]

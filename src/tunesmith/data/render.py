"""From messages to token ids and label spans: the only place where that happens.

Training, evaluation, `generate` and `chat` all render here, so a model is always asked in the
form it was trained on. Three promises, each held by a test:

* The ids before an answer are exactly the ids `prompt_ids` gives for the same turns.
* What a person wrote never becomes a control token: `<|im_end|>` typed by a user stays text.
* Every answer is scored together with the token that ends its turn.

Knows nothing of models, batches or files. Read next: `batches.py`.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tunesmith.data.conversation import Message, Row
from tunesmith.data.marks import Mark, unmarked, wrapped
from tunesmith.data.template_sandbox import ChatTemplate, TooCostly
from tunesmith.errors import TemplateError, UserError

# How a `tokenizer.json` says that a blank comes before the first word, and how it says that none does.
BLANKS_FIRST = (
    ('"prepend_scheme": "first"', '"prepend_scheme": "never"'),
    ('"prepend_scheme": "always"', '"prepend_scheme": "never"'),
    ('"add_prefix_space": true', '"add_prefix_space": false'),
)

# Start and end in characters, and whether it is an answer with its end of turn.
Span = tuple[int, int, bool]

INSTRUCTION_LAYOUT = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}\n\n"
    "{% elif message.role == 'user' %}### Instruction:\n"
    "{{ message.instruction if message.instruction is defined else message.content }}\n\n"
    "{% if message.input %}### Input:\n{{ message.input }}\n\n{% endif %}"
    "{% else %}### Response:\n{{ message.content }}{{ eos_token }}"
    "{{ '\n\n' if not loop.last else '' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Response:\n{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Rendered:
    """One row as the model sees it.

    Attributes:
        ids: token ids, length T.
        scored: for each id whether the loss counts it, length T.
        row: where it came from.
        is_cut: whether tokens were removed to fit a length.
    """

    ids: tuple[int, ...]
    scored: tuple[bool, ...]
    row: Row
    is_cut: bool = False

    @property
    def scored_tokens(self) -> int:
        """Tokens the loss counts; the first token is given, never predicted."""
        return sum(self.scored[1:])


@dataclass(frozen=True, slots=True)
class Template:
    """A Jinja chat template, the name a user knows it by, and its hash."""

    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Hash of the template's text, stored in each run."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def choose_template(tokenizer: PreTrainedTokenizerBase, choice: str = "auto") -> Template:
    """The template for a tokenizer: its own, the instruction layout, or a given Jinja text.

    Args:
        tokenizer: its `chat_template` is what `auto` takes where it has one.
        choice: `auto`, `instruction`, or the text of a Jinja template.

    Raises:
        TemplateError: if the instruction layout is needed and the tokenizer has no end token.
    """
    own = tokenizer.chat_template
    if choice == "auto" and isinstance(own, str):
        return Template("the model's chat template", own)
    if choice not in ("auto", "instruction"):
        return Template("the given template", choice)
    if tokenizer.eos_token is None:
        raise TemplateError(
            "the instruction layout ends answers with the tokenizer's end token, and this one has none",
            hint="give a template of your own with `--template FILE.jinja`",
        )
    starts_with_bos = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    return Template("the ### Instruction: layout", "{{ bos_token }}" * starts_with_bos + INSTRUCTION_LAYOUT)


class Renderer:
    """Renders rows and prompts for one tokenizer and one template.

    Args:
        tokenizer: a fast tokenizer.
        template: from `choose_template`.
        score_all: score every token instead of answers only.

    Raises:
        TemplateError: if the tokenizer has no fast backend, or cuts plain text in another way than we do; if
            the template is none.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: Template, *, score_all: bool = False
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise TemplateError(
                f"{type(tokenizer).__name__} has no fast backend, so control tokens cannot be told from text",
                hint="take a model folder that has a `tokenizer.json`",
            )
        self.tokenizer = tokenizer
        self.template = template
        self.score_all = score_all
        self._chat = _compiled(template)
        self._tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
        self._specials = {
            token.content: (token_id, token) for token_id, token in tokenizer.added_tokens_decoder.items()
        }
        self._control = {text for text, (_, token) in self._specials.items() if token.special}
        self._control_ids = {token_id for token_id, token in self._specials.values() if token.special} - {
            tokenizer.unk_token_id
        }
        self._any_added = _longest_first(self._specials)
        self._any_control = _longest_first(self._control)
        self._any_but_blanks = _longest_first({text for text in self._specials if text.strip()})
        self._first, self._later, self._inside = _plain_backends(tokenizer.backend_tokenizer.to_str())
        self._check_against_own_encoding()

    def render(self, row: Row) -> Rendered:
        """The ids of a whole conversation and which of them are scored.

        Raises:
            TemplateError: names the row and why the template cannot train on it.
        """
        text, marks = self._text(row.messages, row.place)
        spans = [
            self._answer_span(row, turn, text, marks)
            for turn, message in enumerate(row.messages)
            if message.role == "assistant"
        ]
        ids: list[int] = []
        scored: list[bool] = []
        pieces = _cover(spans, len(text))
        for (_, _, is_answer), piece in zip(pieces, self._encode(text, pieces, marks), strict=True):
            ids += piece
            scored += [is_answer or self.score_all] * len(piece)
        return Rendered(tuple(ids), tuple(scored), row)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The ids after which the model answers: `messages`, then the start of an assistant's turn.

        They equal the start of `render` of the same turns, piece by piece.
        """
        text, marks = self._text(messages, "the prompt", add_generation_prompt=True)
        spans = []
        for turn, message in enumerate(messages):
            if message.role == "assistant":
                row = Row(tuple(messages[: turn + 1]), "the prompt", turn, "messages")
                spans.append(self._answer_span(row, turn, text, marks))
        return list(chain.from_iterable(self._encode(text, _cover(spans, len(text)), marks)))

    @property
    def end_of_turn_ids(self) -> tuple[int, ...]:
        """The ids that end an answer: the template's own, then the tokenizer's end token."""
        probe = Row((Message("user", "a"), Message("assistant", "b")), "the probe", 1, "messages")
        text, marks = self._text(probe.messages, probe.place)
        pieces = _cover([self._answer_span(probe, 1, text, marks)], len(text))
        own = self._encode(text, pieces, marks)[1][-1]
        eos = self.tokenizer.eos_token_id
        return (own,) if eos in (None, own) else (own, eos)

    def text(self, ids: Sequence[int]) -> str:
        """The text of an answer's ids, control tokens left out."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def _apply(
        self, messages: Sequence[Message], *, mark: bool = False, add_generation_prompt: bool = False
    ) -> str:
        turns = [
            {
                "role": message.role,
                "content": wrapped(message.text, message.role, mark),
                "instruction": wrapped(message.content, message.role, mark),
                "input": wrapped(message.input, message.role, mark),
            }
            for message in messages
        ]
        try:
            return self._chat.render(turns, add_generation_prompt=add_generation_prompt, tokens=self._tokens)
        except (TooCostly, SecurityError) as error:
            raise TemplateError(
                f"{self.template.name} was stopped: {error}",
                hint="do not use it; take `--template instruction`, or a template you trust",
            ) from error
        except jinja2.TemplateError as error:
            raise TemplateError(
                f"{self.template.name} refuses the roles {[m.role for m in messages]}: {error}",
                hint="change the rows to the roles it knows, or take another with `--template`",
            ) from error

    def _text(
        self, messages: Sequence[Message], place: str, *, add_generation_prompt: bool = False
    ) -> tuple[str, list[Mark]]:
        """The rendered text and what people wrote of it, unknown (none) where the template changes texts."""
        text = self._apply(messages, add_generation_prompt=add_generation_prompt)
        plain, marks = unmarked(self._apply(messages, mark=True, add_generation_prompt=add_generation_prompt))
        if plain == text:
            return text, marks
        parts = ((m.role, part) for m in messages for part in (m.content, m.input))
        found = next(filter(None, (self._reserved(role).search(part) for role, part in parts)), None)
        if found:
            raise TemplateError(
                f"{place}: the text holds the control token {found.group()!r} and {self.template.name} "
                "changes texts, so the two cannot be told apart",
                hint="remove the control token from the row, or take `--template instruction`",
            )
        return text, []

    def _reserved(self, role: str) -> re.Pattern[str]:
        """What this role must not write as a token: an assistant may write markers such as `<think>`."""
        return self._any_control if role == "assistant" else self._any_but_blanks

    def _answer_span(self, row: Row, turn: int, text: str, marks: list[Mark]) -> Span:
        """Start and end (characters) of what the model must produce in this turn, end of turn included."""
        prompt = self._apply(row.messages[:turn], add_generation_prompt=True)
        if not text.startswith(prompt):
            raise TemplateError(
                f"{row.place}: {self.template.name} asks for answer {turn} in another form than it stores it",
                hint="take `--template instruction`, or a template whose generation prompt begins the answer",
            )
        start = len(prompt)
        answer = row.messages[turn].content.strip()
        ends = [m.end for m in marks if m.start >= start and m.is_answer and text[m.start : m.end] == answer]
        # Without marks the answer's last words are looked for; the template may have changed the first ones.
        if not ends and (at := text.find(answer[-16:], start)) >= 0:
            ends = [at + len(answer[-16:])]
        match = self._any_control.search(text, ends[0]) if ends else None
        if match is None:
            raise TemplateError(
                f"{row.place}: {self.template.name} closes answer {turn} with no control token, "
                "so the model would never learn to stop",
                hint="take `--template instruction`, or add the end token to the template",
            )
        return start, match.end(), True

    def _encode(self, text: str, pieces: list[Span], marks: list[Mark]) -> list[list[int]]:
        """Ids of each of `pieces`, which cover the text in order.

        What lies between two added tokens is one section to the tokenizer. A piece may begin inside a
        section, and must then get no blank of its own, or the answer would begin otherwise than in the
        whole text.
        """
        encoded: list[list[int]] = []
        at = 0
        for start, end, _ in pieces:
            ids: list[int] = []
            for token_id, left, right in self._added(text, start, end, marks):
                ids += [*self._plain(text, at, start, left), token_id]
                at = right
            encoded.append(ids + self._plain(text, at, start, end))
        return encoded

    def _added(self, text: str, start: int, end: int, marks: list[Mark]) -> Iterator[tuple[int, int, int]]:
        """Added tokens in `text[start:end]` outside what people wrote: id, start and end."""
        for match in self._any_added.finditer(text, start, end):
            token_id, token = self._specials[match.group()]
            if match.group().strip() and any(mark.bars(match, token.special) for mark in marks):
                continue
            left, right = match.span()
            while token.lstrip and left > start and text[left - 1].isspace():
                left -= 1
            while token.rstrip and right < len(text) and text[right].isspace():
                right += 1
            yield token_id, left, right

    def _plain(self, text: str, section: int, start: int, end: int) -> list[int]:
        """Ids of the text from `start` to `end`, in the section that begins at `section`."""
        begin = max(section, start)
        if begin >= end:
            return []
        backend = self._inside if begin > section else self._later if begin else self._first
        ids = list(backend.encode(text[begin:end], add_special_tokens=False).ids)
        if not self._control_ids.isdisjoint(ids):
            raise TemplateError(
                f"this tokenizer reads control tokens into plain text such as {text[begin:end][:80]!r}",
                hint="remove what looks like a control token from the text",
            )
        return ids

    def _check_against_own_encoding(self) -> None:
        """On harmless text our ids must be the tokenizer's own, or the model would see foreign text."""
        probe = "Hello, wörld! 你好 12 345\n\n  def f(x):\treturn 'it''s' <b>&amp;</b>"
        control = next(iter(self._control), "")
        text = f"{probe}{control}{probe}"
        own = self.tokenizer(text, add_special_tokens=False).input_ids
        ours = self._encode(text, [(0, len(text), False)], [])[0]
        if own != ours:
            raise TemplateError(
                f"{type(self.tokenizer).__name__} cuts text in a way that cannot be repeated safely "
                f"({len(own)} ids from itself, {len(ours)} from its parts)",
                hint="take the model's own `tokenizer.json` without changes, or report this tokenizer",
            )


def make_renderer(tokenizer: Any, template: str, *, score_all: bool = False) -> Renderer:
    """The renderer for a template given as `auto`, `instruction` or a file's path."""
    if template not in ("auto", "instruction"):
        try:
            template = Path(template).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"template `{template}` cannot be read: {error.strerror}",
                hint="give a Jinja file, `auto` or `instruction`",
            ) from error
    return Renderer(tokenizer, choose_template(tokenizer, template), score_all=score_all)


def _compiled(template: Template) -> ChatTemplate:
    try:
        return ChatTemplate(template.text)
    except jinja2.TemplateError as error:
        line = f" (line {error.lineno})" if isinstance(error, jinja2.TemplateSyntaxError) else ""
        raise TemplateError(
            f"{template.name} is no Jinja template that can be used{line}: {error}",
            hint="mend it, or take `--template instruction`",
        ) from error


def _longest_first(texts: Sequence[str] | set[str] | dict[str, Any]) -> re.Pattern[str]:
    ordered = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) or r"(?!)")


@lru_cache(maxsize=8)
def _plain_backends(serialized: str) -> tuple[Tokenizer, Tokenizer, Tokenizer]:
    """The tokenizer without added tokens: for a text's beginning, a later section's, and inside a section.

    They differ only in tokenizers that put a blank before the first word, of a text or of each section.
    """
    state = json.loads(serialized)
    state.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
    first = json.dumps(state)
    later = first.replace('"prepend_scheme": "first"', '"prepend_scheme": "never"')
    inside = json.dumps(state | {"normalizer": _without_prepend(state["normalizer"])})
    for blank, none in BLANKS_FIRST:
        inside = inside.replace(blank, none)
    return Tokenizer.from_str(first), Tokenizer.from_str(later), Tokenizer.from_str(inside)


def _without_prepend(normalizer: dict[str, Any] | None) -> dict[str, Any] | None:
    if normalizer is None or normalizer["type"] == "Prepend":
        return None
    if normalizer["type"] != "Sequence":
        return normalizer
    kept = [step for step in map(_without_prepend, normalizer["normalizers"]) if step]
    return normalizer | {"normalizers": kept}


def _cover(spans: list[Span], length: int) -> list[Span]:
    """`spans` and the unscored gaps between them, in order, covering 0 to `length`."""
    covered: list[Span] = []
    at = 0
    for start, end, is_answer in spans:
        covered += [(at, start, False), (start, end, is_answer)]
        at = end
    return [*covered, (at, length, False)]

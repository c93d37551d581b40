"""The steps of cleaning, in the order in which they are applied, and the presets that switch them on.

What changes texts comes before what drops rows, and what compares rows comes last, so that a mended row is
judged as it will be trained on and a second run finds nothing to do. Read next: `records.py`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tunesmith.data.audit import signs
from tunesmith.data.clean import mends
from tunesmith.data.clean.texts import Text, Texts, Value, key_of, shapes_of, shown_path, with_texts
from tunesmith.data.formats import to_row
from tunesmith.data.records import Record, listed, nearest
from tunesmith.data.shapes import REQUIRED
from tunesmith.errors import ConfigError, DataError

GUIDE_FIELDS = ("instruction", "input", "output")
GUIDE_CHARACTERS = (10, 2048)
_SHOWN_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a step did to a record; `after` is None where it removes it."""

    what: str
    after: Value | None


@dataclass(frozen=True, slots=True)
class Settings:
    """What steps need to know.

    Attributes:
        columns: our field names and the file's.
        fill: texts for `{{name}}`, by name.
        max_length: most tokens a row may have.
        count_tokens: tokens of a row as the model sees it, or None where it cannot be rendered.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    fill: Mapping[str, str] = field(default_factory=dict)
    max_length: int = 1024
    count_tokens: Callable[[Record], int | None] = lambda _: None


Apply = Callable[[Record, Texts, Settings], Verdict | None]


@dataclass(frozen=True, slots=True)
class Step:
    """One step; `apply` is None for the two that compare rows: `records.py` applies them."""

    name: str
    does: str
    apply: Apply | None


def choose(preset: str, *, with_: Sequence[str] = (), without: Sequence[str] = ()) -> tuple[Step, ...]:
    """The steps of a preset with some more and some less, in the order of `STEPS`.

    Raises:
        ConfigError: for an unknown preset or step, a step both on and off, or if no step is left.
    """
    known = [step.name for step in STEPS]
    for name in (*with_, *without):
        if name not in known:
            close = nearest(name, known)
            hint = f"did you mean `{close}`?" if close else f"the steps are {listed(known)}"
            raise ConfigError(f"there is no step `{name}`", hint=hint)
    if preset not in PRESETS:
        raise ConfigError(f"there is no preset `{preset}`", hint=f"choose from {listed(PRESETS)}")
    if both := set(with_) & set(without):
        raise ConfigError(f"{listed(sorted(both))} is switched on and off", hint="give one of the two")
    names = {*PRESETS[preset], *with_} - set(without)
    if not names:
        raise ConfigError("no step is on", hint=f"switch one on: `--with {known[0]}`")
    return tuple(step for step in STEPS if step.name in names)


def _texts(mend: Callable[[Text, Settings], str]) -> Apply:
    """A step that mends texts one by one."""

    def apply(record: Record, texts: Texts, settings: Settings) -> Verdict | None:
        mended = [(text, new) for text in texts if (new := mend(text, settings)) != text.text]
        if not mended:
            return None
        first, new = mended[0]
        more = f" (and in other texts: {len(mended) - 1})" if len(mended) > 1 else ""
        what = f"`{shown_path(first.path)}`: {_difference(first.text, new)}{more}"
        return Verdict(what, with_texts(record.value, {text.path: new for text, new in mended}))

    return apply


def _each(mend: Callable[[str], str]) -> Apply:
    return _texts(lambda text, _: mend(text.text))


def _drop(reason: Callable[[Record, Texts, Settings], str | None]) -> Apply:
    """A step that removes records for which there is a reason."""

    def apply(record: Record, texts: Texts, settings: Settings) -> Verdict | None:
        what = reason(record, texts, settings)
        return Verdict(what, None) if what else None

    return apply


def _special_tokens(text: Text, _: Settings) -> str:
    return mends.escaped(mends.without_end_token(text.text) if text.role == "assistant" else text.text)


def _without_secrets(text: str) -> str:
    return mends.without_cards(mends.without_secrets(text))


def _placeholder(text: Text, _: Settings) -> str:
    return mends.filled_input(text.text) if text.field == "input" else text.text


def _filled(text: Text, settings: Settings) -> str:
    if not settings.fill or "{{" not in text.text:
        return text.text
    names = "|".join(map(re.escape, settings.fill))
    pattern = re.compile(r"\{\{\s*(" + names + r")\s*\}\}")
    return pattern.sub(lambda match: settings.fill[match.group(1)], text.text)


def _unrendered(_: Record, texts: Texts, __: Settings) -> str | None:
    found = ((text, signs.find_unrendered(text.text)) for text in texts)
    return next((f"`{shown_path(text.path)}` holds {piece}" for text, piece in found if piece), None)


def _empty(record: Record, texts: Texts, settings: Settings) -> str | None:
    turns: dict[int, list[Text]] = {}
    for text in texts:
        turns.setdefault(text.turn, []).append(text)
    shapes = shapes_of(record.value, settings.columns)
    if not shapes:
        is_blank = turns and not any(text.text.strip() for text in texts)
        return "all texts are empty" if is_blank else None
    for needed in (name for shape in shapes for name in REQUIRED[shape]):
        if record.value[key := key_of(needed, record.value, settings.columns)] == []:
            return f"`{key}` has no turns"
    names = {"user": "prompt", "assistant": "answer"}
    for turn in turns.values():
        name = names.get(turn[0].role)
        if name and not any(text.text.strip() for text in turn):
            return f"the {name} is empty (`{shown_path(turn[0].path)}`)"
    return None


def _is_placeholder(_: Record, texts: Texts, __: Settings) -> str | None:
    spoken = [text for text in texts if text.role != "system" and text.field != "input"]
    found = ((text, signs.find_placeholder(text.text)) for text in spoken)
    return next((f"`{shown_path(text.path)}` is only {piece!r}" for text, piece in found if piece), None)


def _refusal(_: Record, texts: Texts, __: Settings) -> str | None:
    answers = [text for text in texts if text.role == "assistant"]
    found = ((text, signs.find_refusal(text.text)) for text in answers)
    return next((f"`{shown_path(text.path)}` declines: {piece!r}" for text, piece in found if piece), None)


def _truncated(_: Record, texts: Texts, __: Settings) -> str | None:
    answer = next((text.text for text in reversed(texts) if text.role == "assistant"), "")
    if answer.lstrip()[:1] in ("{", "["):
        return None  # JSON ends without a stop
    tail = signs.find_truncation(answer) if signs.breaks_off(answer) else None
    return f"the answer breaks off: {tail[-_SHOWN_CHARACTERS:]!r}" if tail else None


def _unknown_shape(record: Record, _: Texts, settings: Settings) -> str | None:
    if shapes_of(record.value, settings.columns):
        return None
    return f"the row has the keys {listed(record.value) or 'none'}, which are of no known shape"


def _unusable(record: Record, _: Texts, settings: Settings) -> str | None:
    if not shapes_of(record.value, settings.columns):
        return None
    try:
        to_row(record, path="", columns=settings.columns)
    except DataError as error:
        return str(error).removeprefix(f":{record.line}: ")
    return None


def _too_long(record: Record, _: Texts, settings: Settings) -> str | None:
    tokens = settings.count_tokens(record)
    if tokens is None or tokens <= settings.max_length:
        return None
    return f"the row has {tokens:,} tokens, more than {settings.max_length:,}"


def _empty_fields(_: Record, texts: Texts, __: Settings) -> str | None:
    fields = {text.field: text.text for text in texts}
    for name in ("instruction", "output"):
        if name not in fields:
            return f"the row has no text `{name}`"
        if not fields[name].strip():
            return f"`{name}` is empty"
    return None


def _output_characters(_: Record, texts: Texts, __: Settings) -> str | None:
    count = len(next((text.text for text in texts if text.field == "output"), ""))
    fewest, most = GUIDE_CHARACTERS
    if count < fewest:
        return f"`output` has {count} characters, fewer than {fewest}"
    return f"`output` has {count} characters, more than {most}" if count > most else None


def _three_fields(record: Record, _: Texts, settings: Settings) -> Verdict | None:
    value = record.value
    kept = {key_of(name, value, settings.columns) for name in GUIDE_FIELDS}
    lost = [key for key in value if key not in kept]
    if not lost:
        return None
    return Verdict(f"lost {listed(lost)}", {key: inner for key, inner in value.items() if key in kept})


def _difference(before: str, after: str) -> str:
    """What stands between the equal start and the equal end of two texts."""
    limit = min(len(before), len(after))
    start = next((at for at in range(limit) if before[at] != after[at]), limit)
    end = next((at for at in range(limit - start) if before[-1 - at] != after[-1 - at]), limit - start)
    old, new = before[start : len(before) - end], after[start : len(after) - end]
    return f"{shown(old)} becomes {shown(new)}" if new else f"{shown(old)} is taken out"


def shown(text: str) -> str:
    """A short quotation with escapes for what cannot be seen."""
    cut = text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return f"'{escaped}'"


STEPS = (
    Step("strip", "white space off both ends of each text", _each(str.strip)),
    Step("mojibake", "texts read in a wrong encoding put right", _each(mends.decoded)),
    Step("invisible", "control characters and leftover zero-width characters out", _each(mends.visible)),
    Step("homoglyphs", "Cyrillic and Greek look-alikes in Latin words made Latin", _each(mends.latin)),
    Step("html", "entities unescaped, tags of presentation out", _each(mends.plain)),
    Step(
        "special_tokens", "end tokens of answers out, other control tokens escaped", _texts(_special_tokens)
    ),
    Step("placeholders", "`<noinput>` as input made empty", _texts(_placeholder)),
    Step("fill", "`{{name}}` replaced by what `--fill` says", _texts(_filled)),
    Step("secrets", "keys made [SECRET], payment cards made [CARD]", _each(_without_secrets)),
    Step("emails", "e-mail addresses replaced by [EMAIL]", _each(mends.without_emails)),
    Step("unrendered", "rows dropped that still hold `{{name}}`", _drop(_unrendered)),
    Step("empty", "rows dropped whose prompt or answer is empty", _drop(_empty)),
    Step("empty_fields", "rows dropped without `instruction` or `output`", _drop(_empty_fields)),
    Step("output_characters", "outputs dropped under 10 or over 2048 characters", _drop(_output_characters)),
    Step("placeholder_rows", "rows dropped whose prompt or answer is a placeholder", _drop(_is_placeholder)),
    Step("refusals", "rows dropped whose answer declines", _drop(_refusal)),
    Step("truncated", "rows dropped whose answer breaks off in a sentence", _drop(_truncated)),
    Step("unknown_shape", "rows dropped that have no known shape", _drop(_unknown_shape)),
    Step("unusable", "rows dropped that break a rule of their shape", _drop(_unusable)),
    Step("white_space", "each run of white space made one blank", _each(lambda t: re.sub(r"\s+", " ", t))),
    Step("three_fields", "all keys out but instruction, input and output", _three_fields),
    Step("length", "rows dropped with more tokens than `--max-length`", _drop(_too_long)),
    Step("duplicates", "later exact copies dropped", None),
    Step("near_duplicates", "later near copies with another prompt folded into the first", None),
)
PRESETS: dict[str, tuple[str, ...]] = {
    "default": (
        *("mojibake", "invisible", "homoglyphs", "special_tokens", "placeholders", "fill", "empty", "length"),
        *("duplicates", "near_duplicates"),
    ),
    "guide": ("strip", "empty_fields", "output_characters", "white_space", "three_fields"),
    "none": (),
}

"""Faults of a line or of a row's shape: bytes no reader accepts, keys and turns that it does not know."""

import re
from collections.abc import Callable
from typing import Any

import orjson

from tunesmith.data.generate.dirt_site import Row, Site, Spoiled, phrases

LineFault = Callable[[Site], Spoiled | None]

_LATIN_1 = {b"a": b"\xe1", b"e": b"\xe9", b"i": b"\xed", b"o": b"\xf3", b"u": b"\xfc"}
_BAD_ESCAPES = (r"\_", r"\'", r"\(", r"\alpha", r"\x41", r"\d", r"\$")
_VALUE_START = b'"completion":"'


def bad_bytes(site: Site) -> Spoiled:
    """A Latin-1 letter in the middle of UTF-8."""
    line = orjson.dumps(site.row)
    start = line.index(_VALUE_START) + len(_VALUE_START)
    # The next byte is ASCII, so that the bad one cannot begin a character of several bytes.
    places = [
        match.start() for match in re.finditer(rb"(?<!\\)[aeiou](?=[ -~])", line) if match.start() >= start
    ]
    if places:
        at = site.random.choice(places)
        bad = _LATIN_1[line[at : at + 1]]
        return line[:at] + bad + line[at + 1 :], f"the byte {bad[0]:#04x} is not UTF-8"
    return line.replace(_VALUE_START, _VALUE_START + b"\xe9 ", 1), "the byte 0xe9 is not UTF-8"


def not_json(site: Site) -> Spoiled:
    """A line that is no JSON in one of the ways files go wrong by; never with a raw line break."""
    what, break_line = site.random.choice(_BREAKS)
    return break_line(site).encode(), what


def _bad_escape(site: Site) -> str:
    escape = site.random.choice(_BAD_ESCAPES)
    text = _text(site.row)
    gaps = [match.end() for match in re.finditer(r"(?<=\w) (?=\w)", text)]
    at = site.random.choice(gaps) if gaps else text.index(_VALUE_START.decode()) + len(_VALUE_START)
    return text[:at] + escape + text[at:]


def _missing_quote(site: Site) -> str:
    # An odd number of quotes is no JSON, whatever stands between them.
    return _text(site.row).replace(
        '"completion":"', site.random.choice(('"completion":', 'completion":"')), 1
    )


def _truncated(site: Site) -> str:
    text = _text(site.row)
    return text[: site.random.randint(len(text) // 3, len(text) - 1)]


def _single_quotes(site: Site) -> str:
    return repr(dict(site.row))


def _missing_brace(site: Site) -> str:
    text = _text(site.row)
    return site.random.choice((text[1:], text[:-1]))


def _stray_comma(site: Site) -> str:
    return f"{_text(site.row)[:-1]},}}"


def _missing_comma(site: Site) -> str:
    second = list(site.row)[1]
    return _text(site.row).replace(f',"{second}":', f' "{second}":', 1)


_BREAKS: tuple[tuple[str, Callable[[Site], str]], ...] = (
    ("an escape that JSON does not know", _bad_escape),
    ("a quote is missing", _missing_quote),
    ("the line breaks off", _truncated),
    ("single quotes in place of double ones", _single_quotes),
    ("a brace is missing", _missing_brace),
    ("a comma before the closing brace", _stray_comma),
    ("the comma between two fields is missing", _missing_comma),
)


def not_a_number(site: Site) -> Spoiled:
    """A field whose value is NaN or infinite, as some writers put it."""
    value = site.random.choice(("NaN", "Infinity", "-Infinity"))
    name = site.random.choice(("score", "loss", "weight"))
    return f'{_text(site.row)[:-1]},"{name}":{value}}}'.encode(), f"`{name}` is {value}"


def duplicate_key(site: Site) -> Spoiled | None:
    """`completion` twice, with another row's answer the second time."""
    other = site.other_answer()
    if other is None:
        return None
    second = orjson.dumps({"completion": other})[1:]
    return orjson.dumps(site.row)[:-1] + b"," + second, "the key `completion` is there twice"


def roles_out_of_order(site: Site) -> Spoiled:
    """A row of `messages` whose turns do not alternate from user to assistant."""
    ask, answer = _turn("user", site.row["prompt"]), _turn("assistant", site.row["completion"])
    more = _turn("user", site.random.choice(phrases()["too_many_turns"]))
    greeting = _turn("assistant", site.random.choice(phrases()["greetings"]))
    what, turns = site.random.choice(
        (
            ("two user turns in a row", [ask, more, answer]),
            ("the first turn is the assistant's", [greeting, ask, answer]),
            ("the last turn is the user's", [ask, answer, more]),
            ("two assistant turns in a row", [ask, greeting, answer]),
        )
    )
    system = [_turn("system", site.row["system"])] if site.row.get("system") else []
    return {"messages": [*system, *turns]}, what


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def unknown_shape(site: Site) -> Spoiled:
    """The row under keys that no known shape has."""
    prompt, completion = site.row["prompt"], site.row["completion"]
    shapes: tuple[dict[str, Any], ...] = (
        {"text": f"{prompt}\n\n{completion}"},
        {"q": prompt, "a": completion},
        {"source_text": prompt, "target_text": completion},
        {"document": {"body": prompt, "label": completion}},
    )
    shape = site.random.choice(shapes)
    return shape, f"the row has the keys {', '.join(shape)}"


def _text(row: Row) -> str:
    return orjson.dumps(row).decode()


LINE_FAULTS: dict[str, LineFault] = {
    fault.__name__: fault
    for fault in (bad_bytes, not_json, not_a_number, duplicate_key, roles_out_of_order, unknown_shape)
}

"""Records of JSON lines and of JSON arrays, each with the line where it starts.

Decides nothing about which of the two a file is: `read.py` does.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import orjson

from tunesmith.data.records import BadLine, Record, as_record
from tunesmith.errors import DataError

BOM = b"\xef\xbb\xbf"
UTF8_HINT = "save the file as UTF-8, for example `iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW`"
LINES_HINT = "write one whole JSON object on each line; text holds a line break as \\n"
ARRAY_HINT = "correct the file there; it must be one JSON array of objects, [{...}, {...}]"
_SPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile(r"\\u[dD]")


def _refuse_constant(literal: str) -> NoReturn:
    raise ArithmeticError(f"{literal} is not a JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def json_lines(path: Path) -> Iterator[Record | BadLine]:
    """Each line's record, or why the line is none; blank lines are passed over. Holds one line at a time."""
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            content = raw.removeprefix(BOM) if line == 1 else raw
            if content.strip():
                yield _line_record(line, content)


def json_array(path: Path) -> Iterator[Record | BadLine]:
    """Each element of the file's one array. Holds the whole text; time is linear in its length.

    Raises:
        DataError: where the text stops being JSON; what follows has no certain meaning.
    """
    text = decoded_text(path)
    position = _past_space(text, text.index("[") + 1)
    line, counted = 1, 0
    closed = text[position : position + 1] == "]"
    while not closed:
        line, counted = line + text.count("\n", counted, position), position
        value, end = _element(path, text, position)
        yield as_record(line, value)
        end = _past_space(text, end)
        closed = _is_closed(path, text, end)
        position = end if closed else _past_space(text, end + 1)
    rest = _past_space(text, position + 1)
    if rest < len(text):
        _refuse_array(path, text, rest, "there is text after the closing `]`")


def refuse_object(path: Path) -> NoReturn:
    """Say why a file that starts with an object, and is not JSON lines, cannot be read.

    Raises:
        DataError: always: one object alone, several that share lines, or broken JSON.
    """
    text = decoded_text(path)
    value, end = _element(path, text, _past_space(text, 0))
    rest = _past_space(text, end)
    if rest < len(text):
        what = f"{path}:{_line_at(text, rest)}: a second JSON value follows the first"
        raise DataError(what, hint=f"{LINES_HINT}, or put commas between them and the whole in [ ]")
    items = value.items() if isinstance(value, dict) else ()
    lists = [key for key, inner in items if isinstance(inner, list)]
    hint = f"save the list under `{lists[0]}` as a file of its own" if lists else "put the row in [ ]"
    raise DataError(f"{path}:1: the file is one JSON object, not an array of rows", hint=hint)


def decoded_text(path: Path) -> str:
    """The whole file as text, without a byte order mark.

    Raises:
        DataError: if a byte is not UTF-8; names it, its line and its offset in bytes.
    """
    data = path.read_bytes().removeprefix(BOM)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"byte {data[error.start]:#04x} at offset {error.start} is not UTF-8"
        raise DataError(f"{path}:{line}: {what}", hint=UTF8_HINT) from None


def _line_record(line: int, content: bytes) -> Record | BadLine:
    try:
        return as_record(line, orjson.loads(content))
    except orjson.JSONDecodeError as error:
        fallback = error.msg
    try:
        text = content.decode().rstrip("\r\n")
        _, end = _decode(text, _past_space(text, 0))
    except UnicodeDecodeError as error:
        what = f"byte {content[error.start]:#04x} at offset {error.start} of the line is not UTF-8"
        return BadLine(line, what, UTF8_HINT)
    except json.JSONDecodeError as error:
        return BadLine(line, _explain(error, at_end=not content.endswith(b"\n")), LINES_HINT)
    rest = text[_past_space(text, end) :]
    what = f"more text follows the value, in column {end + 1}" if rest else fallback
    return BadLine(line, what, LINES_HINT)


def _element(path: Path, text: str, position: int) -> tuple[object, int]:
    try:
        return _decode(text, position)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: {_explain(error, at_end=True)}", hint=ARRAY_HINT) from None


def _decode(text: str, position: int) -> tuple[object, int]:
    """One JSON value and where it ends; whatever is wrong comes out as a JSONDecodeError."""
    try:
        value, end = _DECODER.raw_decode(text, position)
        if _SURROGATE.search(text, position, end):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError("it is nested too deeply", text, position) from None
    except UnicodeEncodeError:
        what = "it holds half of a surrogate pair, which is no character"
        raise json.JSONDecodeError(what, text, position) from None
    except ArithmeticError as error:
        raise json.JSONDecodeError(str(error), text, position) from None
    except ValueError:  # an integer beyond Python's limit of digits
        raise json.JSONDecodeError("it holds a number with too many digits", text, position) from None
    return value, end


def _explain(error: json.JSONDecodeError, *, at_end: bool) -> str:
    # A JSON text holds no bare line break inside a string, so an open string means the end of the text.
    if error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string"):
        truncated = "; the file may be truncated" if at_end else ""
        return f"the JSON breaks off in column {error.colno}{truncated}"
    return f"not JSON in column {error.colno}: {error.msg}"


def _is_closed(path: Path, text: str, position: int) -> bool:
    """True at the array's end, False at a comma with an element after it."""
    found = text[position : position + 1]
    following = _past_space(text, position + 1)
    if found == "," and text[following : following + 1] == "]":
        _refuse_array(path, text, position, "a comma stands before the closing `]`")
    if found and found in ",]":
        return found == "]"
    if not found:
        _refuse_array(path, text, position, "the array breaks off; the file may be truncated")
    _refuse_array(path, text, position, f"expected `,` or `]` between rows, found `{found}`")


def _refuse_array(path: Path, text: str, position: int, what: str) -> NoReturn:
    raise DataError(f"{path}:{_line_at(text, position)}: {what}", hint=ARRAY_HINT)


def _past_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _line_at(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1

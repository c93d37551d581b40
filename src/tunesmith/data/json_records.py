"""One record from the JSON text of one row, or the reason why it is none; and the lines of JSON lines.

Decides nothing about which kind of file it is: `read.py` does. The rows of an array: `json_array.py`.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

import orjson

from tunesmith.data.records import BadLine, Record, as_record
from tunesmith.errors import DataError

BOM = b"\xef\xbb\xbf"
UTF8_HINT = "save the file as UTF-8, for example `iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW`"
LINES_HINT = "write one whole JSON object on each line; text holds a line break as \\n"
MAX_ROW_BYTES = 64 << 20  # no row to train on is larger; a file without line breaks would fill the memory
_SPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile(r"\\u[dD]")
_EXACT_INTEGERS_TO = 2.0**53

# The line where a row starts (1-based), and its bytes.
Piece = tuple[int, bytes]


class _Unusable(ValueError):
    """What decoding found, by kind."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind


def line_pieces(stream: BinaryIO) -> Iterator[Piece | BadLine]:
    """Each line that is not blank; one that is too long to be a row is passed over in parts."""
    line = 0
    while raw := stream.readline(MAX_ROW_BYTES + 1):
        line += 1
        if len(raw) > MAX_ROW_BYTES:
            while raw and not raw.endswith(b"\n"):
                raw = stream.readline(MAX_ROW_BYTES)
            what = f"the line is longer than {MAX_ROW_BYTES >> 20} MiB"
            yield BadLine(line, "too_large", what, LINES_HINT)
            continue
        content = raw.removeprefix(BOM) if line == 1 else raw
        if content.strip():
            yield line, content


def decode_json(line: int, content: bytes, *, hint: str = LINES_HINT) -> Record | BadLine:
    """The record in `content`, which starts on `line`.

    Refused are a key that stands twice, NaN, half a surrogate pair and bytes that are not UTF-8, besides what
    is no JSON; integers of any size stay exact.
    """
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        return _why_not(line, content, error.msg, hint)
    if not isinstance(value, dict):
        return as_record(line, value)
    # Every key is followed by `":`, which no text can hold unescaped; where the counts differ, look closer.
    keys, is_rounded = _keys(value)
    if not is_rounded and keys == content.count(b'":') - content.count(b'\\":'):
        return Record(line, value)
    return _why_not(line, content, "", hint)


def decoded_text(data: bytes, path: object) -> str:
    """Text of a whole file, without a byte order mark.

    Raises:
        DataError: if a byte is not UTF-8; names it, its line and its offset in bytes.
    """
    data = data.removeprefix(BOM)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"byte {data[error.start]:#04x} at offset {error.start} is not UTF-8"
        raise DataError(f"{path}:{line}: {what}", hint=UTF8_HINT) from None


def decode_value(text: str, position: int) -> tuple[object, int]:
    """One JSON value and where it ends; whatever is wrong comes out as a JSONDecodeError."""
    try:
        value, end = _DECODER.raw_decode(text, position)
        if _SURROGATE.search(text, position, end):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise _JsonError("too_deep", "it is nested too deeply", text, position) from None
    except UnicodeEncodeError:
        what = "it holds half of a surrogate pair, which is no character"
        raise _JsonError("not_json", what, text, position) from None
    except _Unusable as error:
        raise _JsonError(error.kind, str(error), text, position) from None
    except ValueError:  # an integer beyond Python's limit of digits
        raise _JsonError("not_json", "it holds a number with too many digits", text, position) from None
    return value, end


def explain(error: json.JSONDecodeError, *, at_end: bool) -> str:
    """What is wrong, and in which column where that helps."""
    if isinstance(error, _JsonError):
        return error.msg
    # A JSON text holds no bare line break inside a string, so an open string means the end of the text.
    if error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string"):
        truncated = "; the file may be truncated" if at_end else ""
        return f"the JSON breaks off in column {error.colno}{truncated}"
    return f"not JSON in column {error.colno}: {error.msg}"


def past_space(text: str, position: int) -> int:
    """The next position that is no white space."""
    match = _SPACE.match(text, position)
    return match.end() if match else position


class _JsonError(json.JSONDecodeError):
    """A decoding error that knows its kind."""

    def __init__(self, kind: str, what: str, text: str, position: int) -> None:
        super().__init__(what, text, position)
        self.kind = kind


def _refuse_constant(literal: str) -> NoReturn:
    raise _Unusable("not_a_number", f"{literal} is not a JSON number")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise _Unusable("duplicate_key", f"the key `{twice}` stands twice in one object")
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_distinct)


def _keys(value: Any) -> tuple[int, bool]:
    """Keys of all objects in `value`, and whether a number may have been rounded."""
    kind = type(value)
    if kind is float:
        return 0, abs(value) >= _EXACT_INTEGERS_TO
    if kind is not dict and kind is not list:
        return 0, False
    count, is_rounded = (len(value) if kind is dict else 0), False
    for inner in value.values() if kind is dict else value:
        if type(inner) is not str:
            more, inexact = _keys(inner)
            count, is_rounded = count + more, is_rounded or inexact
    return count, is_rounded


def _why_not(line: int, content: bytes, fallback: str, hint: str) -> Record | BadLine:
    """Decode again with the slow decoder, which knows why it fails, and may not fail at all."""
    try:
        text = content.decode().rstrip("\r\n")
        value, end = decode_value(text, past_space(text, 0))
    except UnicodeDecodeError as error:
        where = "line" if b"\n" not in content.rstrip() else "row"
        what = f"byte {content[error.start]:#04x} at offset {error.start} of the {where} is not UTF-8"
        return BadLine(line + content.count(b"\n", 0, error.start), "bad_bytes", what, UTF8_HINT)
    except json.JSONDecodeError as error:
        what = explain(error, at_end=not content.endswith(b"\n"))
        kind = error.kind if isinstance(error, _JsonError) else "not_json"
        return BadLine(line + error.lineno - 1, kind, what, hint)
    if text[past_space(text, end) :]:
        return BadLine(line, "not_json", f"more text follows the value, in column {end + 1}", hint)
    return BadLine(line, "not_json", fallback, hint) if fallback else as_record(line, value)

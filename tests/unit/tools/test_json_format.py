import io
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.tools import json_window
from tunesmith.tools.json_format import format_json

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
STYLES = st.sampled_from([None, "pretty", "compact", "lines"])
LAYOUTS = st.fixed_dictionaries(
    {
        "style": STYLES,
        "indent": st.integers(0, 4),
        "sort_keys": st.booleans(),
        "is_named_lines": st.booleans(),
    }
)


def run(content: bytes, **options):
    pieces = []
    found = format_json(io.BytesIO(content).read, pieces.append, **options)
    return found, b"".join(pieces)


def dumps(value, *, ascii_only=False, indent=None):
    return json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()


def kinds(found):
    return [problem.kind for problem in found.problems]


def values(content: bytes, *, style: str, value: object):
    """What the output says, as one value."""
    text = content.decode()
    if style == "lines" and isinstance(value, list) and value and isinstance(value[0], dict):
        return [json.loads(line) for line in text.split("\n")[:-1]]
    return json.loads(text)


@given(value=JSON, ascii_only=st.booleans(), indent=st.sampled_from([None, 0, 1]), layout=LAYOUTS)
def test_formatted_text_says_what_the_text_said(value, ascii_only, indent, layout):
    content = dumps(value, ascii_only=ascii_only, indent=indent)
    found, formatted = run(content, **(layout | {"is_named_lines": False}))
    assert found.problems == ()
    assert found.documents == 1
    assert values(formatted, style=found.style, value=value) == value


@given(documents=st.lists(JSON, min_size=1, max_size=5), layout=LAYOUTS, joined=st.booleans())
def test_formatting_twice_is_formatting_once(documents, layout, joined):
    content = dumps(documents) if joined else b"\n".join(map(dumps, documents))
    once = run(content, **layout)[1]
    found, twice = run(once, **layout)
    assert found.problems == ()
    assert twice == once


@given(documents=st.lists(JSON, min_size=2, max_size=6), style=st.sampled_from(["pretty", "compact"]))
def test_lines_stay_the_same_documents(documents, style):
    found, formatted = run(b"\n".join(map(dumps, documents)), style=style)
    assert found.documents == len(documents)
    text, decoder, at, read = formatted.decode(), json.JSONDecoder(), 0, []
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        read.append(value)
        assert text[at] == "\n"
        at += 1
    assert read == documents


@given(value=JSON, layout=LAYOUTS, piece=st.integers(1, 9))
def test_it_does_not_matter_in_which_pieces_the_text_comes(value, layout, piece):
    content = dumps(value, indent=1)
    small = io.BytesIO(content)
    pieces = []
    found = format_json(lambda _: small.read(piece), pieces.append, **layout)
    assert (found, b"".join(pieces)) == run(content, **layout)


@given(
    content=st.binary(max_size=60)
    | st.text(alphabet="[]{}\"':, \n\\/*#tu0d8ae+-.NaN\ufeff", max_size=60).map(str.encode),
    layout=LAYOUTS,
    fix=st.booleans(),
)
@settings(max_examples=400)
def test_any_bytes_end_in_text_or_in_problems(content, layout, fix):
    found, formatted = run(content, fix=fix, **layout)
    if found.is_good(fix=fix):
        again, once_more = run(formatted, **(layout | {"style": found.style}))
        assert again.problems == ()
        assert once_more == formatted
    else:
        assert found.documents == 0 or found.problems
    for problem in found.problems:
        assert problem.line >= 1
        assert problem.column >= 1
        assert problem.message
        assert problem.mend.words


@pytest.mark.parametrize(
    "content",
    [
        b'["' + b"\\d" * 200_000 + b'"',
        b'["' + b"a" * 1_000_000,
        b"[" * 500_000,
        b"/*" * 200_000,
        b"'" * 300_001,
        b"{" * 300_000,
        b"[1 " * 200_000,
        b"\xff" * 300_000,
        b"[1,,,,,,,,,,," * 30_000,
        b"-" * 500_000,
        b'{"a":1,"a":' * 30_000,
        b" " * 2_000_000,
        b"\n" * 500_000,
        b'{"a": 1}x\n' * 20_000,
        b"[" + b'"\\ud800",' * 50_000,
    ],
    ids=lambda content: repr(content[:10]),
)
@pytest.mark.parametrize("is_named_lines", [False, True])
def test_hostile_text_takes_seconds_at_most(content, is_named_lines):
    start = time.perf_counter()
    found, _ = run(content, fix=True, is_named_lines=is_named_lines)
    assert time.perf_counter() - start < 20
    assert not found.is_good(fix=True)


@pytest.mark.parametrize(
    "text",
    ["1.0", "1e5", "-0", "-0.0", "123456789012345678901234567890", "1E+2", '"\\u00e9\\/"', '"é😀"', "true"],
)
@pytest.mark.parametrize("style", ["pretty", "compact", "lines"])
def test_numbers_and_strings_stay_as_they_are_written(text, style):
    assert run(f'{{"a": {text}}}'.encode(), style=style)[1].decode().replace(" ", "") in (
        f'{{\n"a":{text}\n}}\n',
        f'{{"a":{text}}}\n',
    )


def test_a_string_longer_than_a_piece_is_whole():
    text = "ä" * (3 * json_window.PIECE_CHARACTERS)
    assert json.loads(run(dumps([text, {"k": text}]))[1]) == [text, {"k": text}]


def test_a_broken_line_leaves_the_others_checked():
    content = b'{"a": 1}\n{"a": \n{"a": 3}\n{"a" 4}\n{"a": 5,}\n'
    found, _ = run(content)
    assert found.documents == 5
    assert [(problem.line, problem.kind) for problem in found.problems] == [
        (2, "truncated"),
        (4, "missing_colon"),
        (5, "trailing_comma"),
    ]


@pytest.mark.parametrize("first", [b'{"a": "cut off', b'{"a": 1]', b'{"a"; 1}'])
def test_a_broken_first_line_leaves_the_others_checked(first):
    found, _ = run(first + b'\n{"a": 2}\n{"a": 3}\n')
    assert found.documents == 3
    assert [problem.line for problem in found.problems] == [1]


def test_an_array_of_objects_becomes_lines_and_nothing_else_does():
    assert run(b'[{"a": 1}, {"b": [2]}]', style="lines")[1] == b'{"a":1}\n{"b":[2]}\n'
    assert run(b'[1, {"b": 2}]', style="lines")[1] == b'[1,{"b":2}]\n'
    assert run(b'[{"a": 1}]\n[{"a": 2}]\n', style="lines")[1] == b'[{"a":1}]\n[{"a":2}]\n'
    assert run(b"[]", style="lines")[1] == b"[]\n"


def test_keys_are_sorted_by_their_characters_at_every_depth():
    content = b'{"b": {"z": 1, "\\u0061": [{"y": 1, "x": 2}]}, "B": 1, "a": {}}'
    assert run(content, style="compact", sort_keys=True)[1] == (
        b'{"B":1,"a":{},"b":{"\\u0061":[{"x":2,"y":1}],"z":1}}\n'
    )


def test_memory_is_bounded_for_lines_and_for_an_array():
    import tracemalloc

    row = dumps({"text": "x" * 500, "n": [1, 2, {"a": None}]})

    def peak(rows, start, between, end):
        made = iter([start, *[row + between] * (rows - 1), row + end])
        buffer = bytearray()

        def read(size):
            while len(buffer) < size and (more := next(made, b"")):
                buffer.extend(more)
            piece = bytes(buffer[:size])
            del buffer[:size]
            return piece

        tracemalloc.start()
        found = format_json(read, lambda _: None)
        measured = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.problems == ()
        return measured

    for shape in ((b"", b"\n", b"\n"), (b"[\n", b",\n", b"]")):
        assert peak(16_000, *shape) < 1.3 * peak(8_000, *shape)

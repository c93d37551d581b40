"""Each kind of damage, put into documents everywhere it fits, is found and mended, or refused."""

import io
import json
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tunesmith.tools.json_format import format_json
from tunesmith.tools.json_parse import MAX_DEPTH

TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("'\"\\\n\tdx/#,"), max_size=6)
WORDS = st.text(alphabet="abcXYZ_", min_size=1, max_size=5)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=10,
)
CONTAINERS = st.lists(JSON, min_size=1, max_size=4) | st.dictionaries(WORDS, JSON, min_size=1, max_size=4)


def run(content: bytes, *, fix=True, **options):
    pieces = []
    found = format_json(io.BytesIO(content).read, pieces.append, fix=fix, style="compact", **options)
    return found, b"".join(pieces)


def single_quoted(text: str) -> str:
    return "'" + json.dumps(text)[1:-1].replace('\\"', '"').replace("'", "\\'") + "'"


def raw_breaks(text: str) -> str:
    return re.sub(r"(\\\\)|\\([nt])", lambda m: m[1] or {"n": "\n", "t": "\t"}[m[2]], json.dumps(text))


def lone_backslashes(text: str) -> str:
    return re.sub(r"\\\\(?=[dxq,#' ])", lambda _: "\\", json.dumps(text))


class Damage:
    """A writer of JSON with one kind of damage; each part can be replaced."""

    def __init__(self, **parts):
        self.string = parts.get("string", json.dumps)
        self.key = parts.get("key", json.dumps)
        self.comma = parts.get("comma", ", ")
        self.last = parts.get("last", "")
        self.gap = parts.get("gap", "")
        self.literals = parts.get("literals", {})

    def write(self, value) -> str:
        if isinstance(value, str):
            return self.string(value)
        if isinstance(value, list):
            return self._joined("[", [self.write(item) for item in value], "]")
        if isinstance(value, dict):
            members = [
                f"{self.key(key)}{self.gap}:{self.gap}{self.write(item)}" for key, item in value.items()
            ]
            return self._joined("{", members, "}")
        return self.literals.get(json.dumps(value), json.dumps(value))

    def _joined(self, start, parts, end):
        inner = (self.gap + self.comma).join(parts) + (self.last if parts else "")
        return f"{start}{self.gap}{inner}{self.gap}{end}"


DAMAGES = {
    "trailing_comma": Damage(last=","),
    "missing_comma": Damage(comma=" "),
    "single_quotes": Damage(string=single_quoted, key=single_quoted),
    "unquoted_key": Damage(key=str),
    "comment": Damage(gap=" /* , ] ' */ // \" }\n# { x\n"),
    "python_literal": Damage(literals={"true": "True", "false": "False", "null": "None"}),
    "not_a_number": Damage(literals={"null": "NaN"}),
    "raw_break": Damage(string=raw_breaks),
    "bad_escape": Damage(string=lone_backslashes),
    "foreign_space": Damage(gap="\u00a0\u3000"),
}
KINDS = {"raw_break": {"raw_newline", "control_character"}}


@pytest.mark.parametrize("kind", DAMAGES)
@given(value=CONTAINERS)
def test_mended_text_says_what_the_whole_text_said(kind, value):
    damaged = DAMAGES[kind].write(value)
    found, mended = run(damaged.encode())
    assert found.unsafe == 0
    assert json.loads(mended) == value
    assert {problem.kind for problem in found.problems} <= KINDS.get(kind, {kind})
    assert bool(found.problems) == (not is_strict(damaged))


@pytest.mark.parametrize("kind", DAMAGES)
@given(value=CONTAINERS)
def test_the_edits_alone_make_the_text_strict(kind, value):
    """What the diff shows is what was done: the edits, made in the damaged text, mend it."""
    damaged = DAMAGES[kind].write(value)
    found, _ = run(damaged.encode())
    starts = [0, *[match.end() for match in re.finditer("\n", damaged)]]
    edits = sorted(
        ((starts[p.line - 1] + e.column - 1, e) for p in found.problems for e in p.mend.edits),
        key=lambda pair: pair[0],
        reverse=True,
    )
    for start, edit in edits:
        damaged = damaged[:start] + edit.text + damaged[start + edit.length :]
    assert json.loads(damaged) == value


def is_strict(text: str) -> bool:
    def refuse(constant):
        raise ValueError(constant)

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError:
        return False
    return True


@given(value=CONTAINERS)
def test_a_byte_order_mark_is_taken_out(value):
    found, mended = run(b"\xef\xbb\xbf" + json.dumps(value).encode())
    assert json.loads(mended) == value
    assert [(p.line, p.column, p.kind) for p in found.problems] == [(1, 1, "byte_order_mark")]


@given(value=CONTAINERS, data=st.data())
def test_a_text_cut_anywhere_is_never_mended(value, data):
    whole = json.dumps(value, indent=data.draw(st.sampled_from([None, 1]))).encode()
    found, _ = run(whole[: data.draw(st.integers(1, len(whole) - 1))])
    assert "truncated" in [problem.kind for problem in found.problems]
    assert found.unsafe


@given(value=CONTAINERS, data=st.data())
def test_a_byte_that_is_not_utf_8_is_never_mended(value, data):
    whole = json.dumps(value).encode()
    at = data.draw(st.integers(0, len(whole)))
    found, _ = run(whole[:at] + b"\xff" + whole[at:])
    assert found.unsafe
    bad = [problem for problem in found.problems if problem.kind in ("bad_bytes", "extra_text")]
    assert [(problem.line, problem.column) for problem in bad][:1] == [(1, at + 1)]


@given(value=st.dictionaries(WORDS, JSON, min_size=1, max_size=4), data=st.data())
def test_a_key_that_is_there_twice_is_reported_with_both_places(value, data):
    key = data.draw(st.sampled_from(sorted(value)))
    text = json.dumps(value)
    first = next(
        match.start() for match in re.finditer(f'"{key}": ', text) if json_key_at(text, match.start())
    )
    assume(text.count(f'"{key}"') == 1)
    found, _ = run((text[:-1] + f', "\\u{ord(key[0]):04x}{key[1:]}": 0}}').encode())
    (problem,) = found.problems
    assert (problem.kind, problem.column) == ("duplicate_key", len(text) + 2)
    assert f"first at 1:{first + 1}" in problem.message


def json_key_at(text: str, at: int) -> bool:
    return text[at - 1] in "{ "


@pytest.mark.parametrize(
    ("text", "line", "column", "kind", "says"),
    [
        ('{"a": 1} x', 1, 10, "extra_text", "`x` follows the end of the document"),
        ('{"a": 1}}', 1, 9, "extra_text", "`}` follows the end of the document"),
        ("[1,\n 2}", 2, 3, "unexpected", "`,` or `]` is expected, `}` found; the array began at 1:1"),
        ('{"a":}', 1, 6, "unexpected", "a value is expected, `}` found; the object began at 1:1"),
        ('{"a" 1}', 1, 5, "missing_colon", 'no colon follows the key "a"'),
        ("[1,,2]", 1, 4, "extra_comma", "nothing stands before the comma"),
        ("[,1]", 1, 2, "extra_comma", "nothing stands before the comma"),
        ('["\\ud83d"]', 1, 3, "surrogate", "`\\ud83d` is half of a surrogate pair"),
        ('["\\udc00\\ud83d"]', 1, 3, "surrogate", "`\\udc00` is half"),
        ("[hello world]", 1, 2, "unquoted_text", "the text `hello world` has no quotes"),
        ("[012]", 1, 2, "bad_number", "`012` is not how JSON writes a number"),
        ("[0x1F]", 1, 2, "bad_number", "`0x1F`"),
        ("[1_000]", 1, 2, "bad_number", "`1_000`"),
        ('["a""b"]', 1, 5, "missing_comma", "no comma stands between two values"),
        ("[“a”]", 1, 2, "unexpected", "a value is expected, `“` found"),
        ("[" * (MAX_DEPTH + 1), 1, MAX_DEPTH + 1, "too_deep", "deeper than 512 levels"),
        (
            '{"a": "b\n, "c": 1}',
            2,
            4,
            "unexpected",
            "the string at 1:7 holds a line break and may lack its end",
        ),
    ],
)
def test_what_has_no_one_meaning_is_refused_where_it_stands(text, line, column, kind, says):
    found, _ = run(text.encode())
    unsafe = [problem for problem in found.problems if not problem.mend.is_safe]
    assert [(p.line, p.column, p.kind) for p in unsafe] == [(line, column, kind)]
    assert says in unsafe[0].message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[+1, .5, 5., -.5e3, +0]", [1, 0.5, 5.0, -500.0, 0]),
        ("[-Infinity, inf, nan, +NaN]", [None] * 4),
        ("{1: 2, true: 3, a-b: 4}", {"1": 2, "true": 3, "a-b": 4}),
        ("['\\x41\\'\"', \"it\\'s\"]", ["A'\"", "it's"]),
        ('["\\u12"]', ["\\u12"]),
        ('["C:\\Users\\data"]', ["C:\\Users\\data"]),
        ('{"a": "x\r\ny"}', {"a": "x\r\ny"}),
        ('{"a": 1},\n{"b": 2},', None),
        ('[{"a": 1}{"b": 2}]', [{"a": 1}, {"b": 2}]),
        ('{"a": 1} // end', {"a": 1}),
        ("/* start */ [1]", [1]),
        ("[1, 2,,]"[:5] + "]", [1, 2]),
    ],
)
def test_what_has_one_meaning_is_mended(text, value):
    found, mended = run(text.encode())
    assert found.unsafe == 0
    read = [json.loads(line) for line in mended.decode().splitlines()]
    assert read == ([value] if value is not None else [{"a": 1}, {"b": 2}])
    assert not run(text.encode(), fix=False)[0].is_good(fix=False) or is_strict(text)


def test_depth_up_to_the_limit_is_fine():
    text = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert run(text.encode())[1].decode() == text + "\n"


def test_all_problems_of_a_document_are_found():
    found, _ = run(b'{\'a\': True,\n  b: [1 2,],  # why\n  "c": NaN, "c": 1\n}\n')
    assert [(p.line, p.column, p.kind) for p in found.problems] == [
        (1, 2, "single_quotes"),
        (1, 7, "python_literal"),
        (2, 3, "unquoted_key"),
        (2, 8, "missing_comma"),
        (2, 10, "trailing_comma"),
        (2, 15, "comment"),
        (3, 8, "not_a_number"),
        (3, 13, "duplicate_key"),
    ]


def test_problems_are_counted_beyond_those_that_are_kept():
    found, mended = run(b"[" + b"None, " * 3000 + b"1]")
    assert found.safe == 3000
    assert len(found.problems) == 1000
    assert json.loads(mended) == [None] * 3000 + [1]


def test_a_line_cut_by_a_raw_line_break_is_explained():
    found, _ = run(b'{"a": 1}\n{"a": "x\ny"}\n', is_named_lines=True)
    assert (found.problems[0].line, found.problems[0].column) == (2, 7)
    assert found.problems[0].mend.words.startswith("if a raw line break cut the string")

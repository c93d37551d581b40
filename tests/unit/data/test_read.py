import datetime
import gzip
import json
import os

import pyarrow as pa
import pytest
from pyarrow import parquet

from tunesmith.data.read import read_records, scan
from tunesmith.data.records import BadLine, Record
from tunesmith.errors import DataError

ROWS = [{"instruction": "Add 1 and 2", "output": "3"}, {"instruction": "你好", "output": "a\nb"}]


def write(tmp_path, content, name="rows.jsonl"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def values(path):
    return [record.value for record in read_records(path)]


def lines(path):
    return [record.line for record in read_records(path)]


def error_of(path):
    with pytest.raises(DataError) as caught:
        list(read_records(path))
    assert caught.value.hint
    return caught.value


def json_lines(rows=ROWS):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    "name", ["rows.json", "rows.jsonl", "rows.ndjson", "rows.csv", "rows.txt", "rows.parquet"]
)
@pytest.mark.parametrize("content", [json_lines(), json.dumps(ROWS), json.dumps(ROWS, indent=2)])
def test_json_is_known_by_content_whatever_the_suffix(tmp_path, name, content):
    assert values(write(tmp_path, content, name)) == ROWS


@pytest.mark.parametrize("content", [json_lines(), json.dumps(ROWS, indent=1), "instruction,output\na,b\n"])
def test_byte_order_mark_changes_nothing(tmp_path, content):
    name = "rows.csv" if content.startswith("instruction") else "rows.json"
    plain = list(read_records(write(tmp_path, content, name)))
    marked = list(read_records(write(tmp_path, b"\xef\xbb\xbf" + content.encode(), name)))
    assert plain == marked


def test_json_lines_have_their_own_line_numbers_past_blank_lines(tmp_path):
    path = write(tmp_path, '\n{"a": 1}\r\n\r\n  {"a": "x\u2028y"}\n\n{"a": 3}')
    assert lines(path) == [2, 4, 6]
    assert values(path) == [{"a": 1}, {"a": "x\u2028y"}, {"a": 3}]


def test_array_elements_have_the_line_where_they_start(tmp_path):
    path = write(tmp_path, '\n[ {"a": [1,\n2]},\n\n{"a": 2}, {"a": "]"}\n,\n  {"a": {}}\n]\n', "rows.json")
    assert lines(path) == [2, 5, 5, 7]


def test_csv_values_stay_the_text_they_are(tmp_path):
    path = write(
        tmp_path, 'id,day,none,text\n001,2024-01-01,NA,\n1.0,true,null," ""a"", b\r\nc "\n', "rows.csv"
    )
    assert values(path) == [
        {"id": "001", "day": "2024-01-01", "none": "NA", "text": ""},
        {"id": "1.0", "day": "true", "none": "null", "text": ' "a", b\r\nc '},
    ]
    assert lines(path) == [2, 3]


def test_csv_line_is_where_the_row_starts_after_values_of_many_lines(tmp_path):
    path = write(tmp_path, 'a,b\n"1\n2\n3",x\n\ny,z\n', "rows.csv")
    assert lines(path) == [2, 6]


def test_csv_holds_values_longer_than_pythons_own_limit(tmp_path):
    long = "x" * 200_000
    assert values(write(tmp_path, f"a,b\n{long},1\n", "rows.csv")) == [{"a": long, "b": "1"}]


def test_parquet_keeps_types_and_counts_rows(tmp_path):
    rows = [
        {"text": "001", "turns": [{"role": "user"}], "day": datetime.date(2024, 1, 1)},
        {"text": "", "turns": [], "day": None},
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.bin")
    assert values(tmp_path / "rows.bin") == rows
    assert lines(tmp_path / "rows.bin") == [1, 2]


def test_records_are_streamed(tmp_path):
    path = write(tmp_path, json_lines() + "broken\n")
    assert next(iter(read_records(path))).value == ROWS[0]


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ("[1]", "the row is a list, not an object"),
        ('"a"', "the row is text, not an object"),
        ("null", "the row is null, not an object"),
        ("7", "the row is a number, not an object"),
        ('{"a": 1', "the JSON breaks off in column 8"),
        ('{"a": "b', "the JSON breaks off in column 7"),
        ('{"a": 1} {"a": 2}', "more text follows the value, in column 9"),
        ("{'a': 1}", "not JSON in column 2: Expecting property name"),
        (r'{"a": "\ud800"}', "half of a surrogate pair"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_bad_json_line_is_named(tmp_path, bad, what):
    error = error_of(path := write(tmp_path, f'{{"a": 1}}\n{bad}\n{{"a": 2}}\n'))
    assert f"1 of 3 rows in `{path}`" in str(error)
    assert f"{path}:2: " in str(error)
    assert what in str(error)


@pytest.mark.parametrize(
    ("bad", "line", "what"),
    [
        ('{"a": NaN}]', 3, "NaN is not a JSON number"),
        ('{"a":\n\n1,}]', 5, "not JSON in column 3"),
        ('{"a": 1}', 3, "the array breaks off; the file may be truncated"),
        ('{"a": "b', 3, "the JSON breaks off in column 7"),
        ('{"a": 1},\n]', 4, "a comma stands before the closing `]`"),
        ('{"a": 1}\n{"a": 2}]', 4, "expected `,` or `]` between rows, found `{`"),
        ('{"a": 1}]\n\n]', 5, "there is text after the closing `]`"),
        (r'{"a": "\udfff"}]', 3, "half of a surrogate pair"),
        ("[" * 100_000, 3, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}]", 3, "it holds a number with too many digits"),
    ],
)
def test_broken_array_is_named_where_it_breaks(tmp_path, bad, line, what):
    error = error_of(path := write(tmp_path, f'[\n{{"a": 1}},\n{bad}', "rows.json"))
    assert f"{path}:{line}: " in str(error)
    assert what in str(error)
    assert "one JSON array of objects" in error.hint


def test_array_elements_that_are_no_objects_are_collected(tmp_path):
    error = error_of(path := write(tmp_path, '[{"a": 1},\n1,\ntrue]', "rows.json"))
    assert str(error) == (
        f"2 of 3 rows in `{path}` cannot be used:\n"
        f"  {path}:2: the row is a number, not an object\n"
        f"  {path}:3: the row is true or false, not an object"
    )


def test_first_five_bad_lines_are_shown_and_all_are_counted(tmp_path):
    error = error_of(path := write(tmp_path, '{"a": 1}\n' + "x\n" * 9))
    assert str(error).startswith(f"9 of 10 rows in `{path}` cannot be used:")
    assert [f"{path}:{line}: " in str(error) for line in range(2, 11)] == [True] * 5 + [False] * 4
    assert str(error).endswith("and 4 more")


def test_line_that_breaks_off_at_the_end_of_the_file_hints_at_truncation(tmp_path):
    error = error_of(write(tmp_path, '{"a": 1}\n{"a": "b'))
    assert str(error).endswith(":2: the JSON breaks off in column 7; the file may be truncated")


def test_only_row_bad_gives_one_line(tmp_path):
    error = error_of(path := write(tmp_path, "{x}"))
    assert str(error).startswith(f"{path}:1: not JSON in column 2")


@pytest.mark.parametrize("prefix", ["", "\ufeff"])
def test_bad_bytes_are_named_with_line_and_offset(tmp_path, prefix):
    start = prefix.encode()
    error = error_of(write(tmp_path, start + b'{"a": "caf\xe9"}\n{"a": "b"}\n'))
    assert ":1: byte 0xe9 at offset 10 of the line is not UTF-8" in str(error)
    error = error_of(write(tmp_path, start + b'[{"a": "b"},\n{"a": "caf\xe9"}]', "rows.json"))
    assert ":2: byte 0xe9 at offset 10 of the line is not UTF-8" in str(error)
    error = error_of(write(tmp_path, start + b"a,b\nx,\xc3\xa9caf\xe9\n", "rows.csv"))
    assert ":2: byte 0xe9 at offset 5 of value 2 is not UTF-8" in str(error)
    error = error_of(write(tmp_path, start + b"a,b\xff\nx,y\n", "rows.csv"))
    assert ":1: byte 0xff at offset 1 of value 2 is not UTF-8" in str(error)
    assert "iconv" in error.hint


@pytest.mark.parametrize(
    ("content", "line", "what"),
    [
        ("a,b\n1,2,3\n4,5\n", 2, "3 values, but the header has 2 columns"),
        ("a,b\n4,5\n1\n", 3, "1 values, but the header has 2 columns"),
        ('a,b\n4,5\n"1,2\n3,4\n', 3, "not CSV: unexpected end of data"),
        ('a,b\n"1"2,3\n4,5\n', 2, "not CSV: ',' expected after"),
        ("a,b,a\n1,2,3\n", 1, "the header names `a` more than once"),
        ("a;b\n1;2\n", 1, "the columns are separated by ';', not by commas"),
        ('"a"b,c\n1,2\n', 1, "the header is not CSV"),
    ],
)
def test_bad_csv_is_named(tmp_path, content, line, what):
    error = error_of(path := write(tmp_path, content, "rows.csv"))
    assert f"{path}:{line}: {what}" in str(error)


def test_truncated_parquet(tmp_path):
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    error = error_of(path := write(tmp_path, whole[:-20], "rows.parquet"))
    assert str(error).startswith(f"{path}:1: not readable as Parquet: ")
    assert "truncated" in error.hint


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "the file is empty"),
        (b" \n\n" * 5000, "the file is empty"),
        (b"\xef\xbb\xbf", "the file is empty"),
        (b"[ \n ]", "the file holds no rows"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "the file is a git LFS pointer",
        ),
        (b"\x1f\x8b\x08\x00", "the compressed file is damaged: Compressed file ended"),
        (b"\x1f\x8bxx" * 9, "the compressed file is damaged: Unknown compression method"),
        # A time inside would give each test process another name for this case.
        (gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0), "the file is compressed with gzip twice"),
        (b"\x28\xb5\x2f\xfd\x00", "the file is compressed with zstd"),
        (b"PK\x03\x04\x00", "the file is a zip archive or a spreadsheet"),
        ('{"a": 1}'.encode("utf-16"), "the file is UTF-16 text"),
        (b"\xfe\xff\x00{", "the file is UTF-16 text"),
        (b"<!doctype html>", "the file is a web page or XML"),
        (b"<html>", "the file is a web page"),
        (b"<?xml", "the file is XML"),
        (b"hello", "the content is not that of .json: it starts with 'h'"),
        (b'{"train": [{"a": 1}]}', "the file is one JSON object, not an array of rows"),
        (b'{"a": 1}\n', "the file is one JSON object, not an array of rows"),
        (b'{\n"a": 1\n', "the JSON breaks off in column 1"),
        (b'{\n"a": 1\n}{\n"a": 2\n}', "a second JSON value follows the first"),
    ],
)
def test_file_that_is_no_data_file_is_called_by_its_name(tmp_path, content, what):
    error = error_of(path := write(tmp_path, content, "rows.json"))
    assert str(error).startswith(f"{path}:")
    assert what in str(error)


def test_csv_with_header_only_holds_no_rows(tmp_path):
    assert ":1: the file holds no rows" in str(error_of(write(tmp_path, "a,b\n", "rows.csv")))


def test_object_of_splits_names_the_list_to_save(tmp_path):
    assert "under `train`" in error_of(write(tmp_path, '{"note": "", "train": [{"a": 1}]}', "rows.json")).hint


def test_unknown_suffix_lists_the_known(tmp_path):
    error = error_of(write(tmp_path, "a,b\n1,2\n", "rows.dat"))
    assert "the content is not that of a data file: it starts with 'a'" in str(error)
    assert "`.parquet`" in error.hint


def test_missing_file_names_the_nearest(tmp_path):
    near = write(tmp_path, json_lines(), "support_rows.jsonl")
    error = error_of(tmp_path / "suport_rows.json")
    assert str(error) == f"{tmp_path / 'suport_rows.json'}: there is no such file"
    assert error.hint == f"the nearest name there is `{near}`"
    assert error_of(tmp_path / "zzz").hint == "check the path"


def test_missing_folder(tmp_path):
    assert f"there is no folder `{tmp_path / 'no'}`" in str(error_of(tmp_path / "no" / "rows.jsonl"))


def test_folder_lists_its_data_files(tmp_path):
    assert str(error_of(tmp_path)) == f"{tmp_path}: is a folder, not a file"
    write(tmp_path, json_lines(), "rows.jsonl")
    assert error_of(tmp_path).hint == "name one file in it: `rows.jsonl`"


def test_name_the_system_refuses(tmp_path):
    error = error_of(tmp_path / ("x" * 300))
    assert "cannot be read: " in str(error) or "there is no such file" in str(error)


@pytest.mark.skipif(
    os.name == "nt" or getattr(os, "geteuid", lambda: 1)() == 0, reason="permissions do not bind here"
)
def test_file_without_permission(tmp_path):
    path = write(tmp_path, json_lines())
    path.chmod(0)
    assert "cannot be read: Permission denied" in str(error_of(path))


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.json.gz", "rows.csv.gz", "rows"])
def test_gzip_is_read_as_what_it_holds(tmp_path, name):
    content = (
        "instruction,output\na,b\n" if "csv" in name else json_lines() if "l" in name else json.dumps(ROWS)
    )
    path = write(tmp_path, gzip.compress(content.encode()), name)
    assert values(path) == ([{"instruction": "a", "output": "b"}] if "csv" in name else ROWS)


def test_gzip_that_breaks_off_keeps_what_came_before(tmp_path):
    whole = gzip.compress("".join(f'{{"a": "{os.urandom(20).hex()}"}}\n' for _ in range(9999)).encode())
    path = write(tmp_path, whole[:-2000], "rows.jsonl.gz")
    *good, bad = scan(path)
    assert len(good) > 9000
    assert (bad.kind, bad.line) == ("damaged", good[-1].line + 1)
    assert f"{path}:{bad.line}: the compressed file is damaged behind this line" in str(error_of(path))


KINDS = [
    ('{"a": "x", "a": "y"}', "duplicate_key", "the key `a` stands twice in one object"),
    ('{"a": [{"b": 1, "b": 1}]}', "duplicate_key", "the key `b` stands twice"),
    ('{"a" : 1, "a" : 2}', "duplicate_key", "the key `a` stands twice"),
    ('{"a": NaN}', "not_a_number", "NaN is not a JSON number"),
    ('{"a": "\\d"}', "not_json", "not JSON in column 8: Invalid \\escape"),
    ('{"a": 1,}', "not_json", "not JSON in column"),
    ("{'a': 1}", "not_json", "not JSON in column 2"),
    ("[" * 5000 + "]" * 5000, "too_deep", "it is nested too deeply"),
    ("17", "not_an_object", "the row is a number, not an object"),
]


@pytest.mark.parametrize(("bad", "kind", "what"), KINDS)
@pytest.mark.parametrize("is_array", [False, True])
def test_one_bad_row_costs_one_row_and_is_typed(tmp_path, bad, kind, what, is_array):
    good = '{"a": "\\": \\" {[", "c:": {"d": []}}'
    text = f"[\n{good},\n{bad},\n{good}\n]" if is_array else f"{good}\n{bad}\n{good}\n"
    first, broken, last = scan(path := write(tmp_path, text, "rows.json"))
    assert first.value == last.value == json.loads(good)
    assert (broken.kind, broken.line) == (kind, 3 if is_array else 2)
    assert what in broken.what
    skipped = []
    assert [record.line for record in read_records(path, skipped=skipped)] == [first.line, last.line]
    assert skipped == [broken]


@pytest.mark.parametrize("indent", [None, 2])
def test_array_goes_on_behind_a_row_that_lacks_a_quote(tmp_path, indent):
    rows = [{"a": "one", "turns": [{"b": 1}]}, {"a": "two", "b": "x"}, {"a": "three"}, {"a": "four"}]
    text = json.dumps(rows, indent=indent).replace('two"', "two")
    found = list(scan(write(tmp_path, text, "rows.json")))
    assert [row.value["a"] for row in found if isinstance(row, Record)] == ["one", "three", "four"]
    assert [row.kind for row in found if isinstance(row, BadLine)] == ["not_json"]


def test_elements_larger_than_a_chunk_are_read_whole(tmp_path):
    rows = [{"a": "x" * 700_000, "b": ["y\n" * 900_000]}, {"a": '"' * 2_000_000}, {"a": 1}]
    path = write(tmp_path, json.dumps(rows, indent=1), "rows.json")
    assert values(path) == rows
    assert lines(path) == [2, 8, 11]


def test_integers_of_any_size_stay_exact(tmp_path):
    large = 123456789012345678901234567890
    assert values(write(tmp_path, f'{{"a": {large}, "b": [1.5, 1e30]}}\n')) == [
        {"a": large, "b": [1.5, 1e30]}
    ]


def test_line_beyond_any_row_is_passed_over(tmp_path):
    path = write(tmp_path, b'{"a": 1}\n' + b" " * (65 << 20) + b'\n{"a": 2}\n')
    first, long, last = scan(path)
    assert (long.kind, long.line, long.what) == ("too_large", 2, "the line is longer than 64 MiB")
    assert (first.value, last.value, last.line) == ({"a": 1}, {"a": 2}, 3)


def test_every_bad_line_is_typed_in_tables_too(tmp_path):
    found = list(scan(write(tmp_path, b"a,b\n1,2\n1\ncaf\xe9,2\n", "rows.csv")))
    assert [row.kind for row in found if isinstance(row, BadLine)] == ["wrong_columns", "bad_bytes"]

import csv
import datetime
import decimal
import gzip
import hashlib
import io
import json

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.data.read import read_records
from tunesmith.data.write import OUTPUT_SUFFIXES, RecordWriter, write_records
from tunesmith.errors import DataError

# One folder for all examples of a test is meant: each example writes its own file anew.
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
)
OBJECTS = st.lists(st.dictionaries(TEXT, JSON, max_size=4), min_size=1, max_size=6)
# One column that holds `;` is refused by the reader as a file with another separator.
COLUMNS = st.lists(TEXT, min_size=2, max_size=4, unique=True)


@st.composite
def tables(draw, cells):
    names = draw(COLUMNS)
    row = st.fixed_dictionaries({name: cells for name in names})
    return draw(st.lists(row, min_size=1, max_size=5))


def written(folder, name, rows):
    """The bytes of a new file that is gone again afterwards, unpacked."""
    path = folder / name
    try:
        assert write_records(path, iter(rows)) == len(rows)
        data = path.read_bytes()
    finally:
        path.unlink(missing_ok=True)
    return gzip.decompress(data) if name.endswith(".gz") else data


def back(folder, name, rows):
    path = folder / name
    try:
        assert write_records(path, iter(rows)) == len(rows)
        return [record.value for record in read_records(path)]
    finally:
        path.unlink(missing_ok=True)


@same_folder
@given(rows=OBJECTS, name=st.sampled_from(["a.json", "a.jsonl", "a.ndjson", "a.json.gz", "a.ndjson.gz"]))
def test_json_gives_back_every_row_with_its_keys_in_order(tmp_path, rows, name):
    found = back(tmp_path, name, rows)
    assert found == rows
    assert [list(row) for row in found] == [list(row) for row in rows]


@same_folder
@given(rows=tables(TEXT), name=st.sampled_from(["a.csv", "a.csv.gz"]))
def test_csv_gives_back_every_text(tmp_path, rows, name):
    found = back(tmp_path, name, rows)
    assert found == rows
    # Another reader of CSV sees the same cells.
    plain = io.StringIO(written(tmp_path, name, rows).decode(), newline="")
    assert list(csv.DictReader(plain)) == rows


@same_folder
@given(data=st.data(), cells=st.sampled_from([TEXT, st.booleans(), st.integers(-(2**63), 2**63 - 1)]))
def test_parquet_gives_back_values_of_one_type_and_nulls(tmp_path, data, cells):
    rows = data.draw(tables(st.none() | cells))
    assert back(tmp_path, "a.parquet", rows) == rows


TURNS = st.lists(st.fixed_dictionaries({"role": TEXT, "content": TEXT}), max_size=3)


@same_folder
@given(rows=st.lists(st.fixed_dictionaries({"messages": TURNS, "id": TEXT}), min_size=1, max_size=5))
def test_parquet_gives_back_lists_of_turns(tmp_path, rows):
    assert back(tmp_path, "a.parquet", rows) == rows


@same_folder
@given(rows=tables(TEXT), suffix=st.sampled_from(OUTPUT_SUFFIXES))
def test_same_rows_are_the_same_bytes_under_any_name(tmp_path, rows, suffix):
    sums = set()
    for name in ("a", "another"):
        path = tmp_path / f"{name}{suffix}"
        write_records(path, rows)
        sums.add(hashlib.sha256(path.read_bytes()).hexdigest())
        path.unlink()
    assert len(sums) == 1


def test_the_layout_of_an_array_is_one_row_a_line(tmp_path):
    assert written(tmp_path, "a.json", [{"a": 1}, {"a": "é"}]) == '[\n{"a":1},\n{"a":"é"}\n]\n'.encode()
    assert written(tmp_path, "a.json", []) == b"[]\n"
    assert written(tmp_path, "a.jsonl", []) == b""
    assert written(tmp_path, "a.csv", []) == b""


def test_plain_csv_has_no_quotes_that_it_does_not_need(tmp_path):
    rows = [{"id": 7, "text": "=1+1", "ok": True, "none": None}, {"id": 1.5, "text": "a\rb"}]
    assert written(tmp_path, "a.csv", rows) == b'id,text,ok,none\n7,=1+1,true,\n1.5,"a\rb",,\n'


def test_values_beyond_json_become_text_and_large_numbers_stay(tmp_path):
    row = {
        "day": datetime.date(2026, 1, 2),
        "sum": decimal.Decimal("0.10"),
        "large": 2**80,
        "nan": float("nan"),
    }
    expected = {"day": "2026-01-02", "sum": "0.10", "large": 2**80, "nan": None}
    for key, value in expected.items():
        assert json.loads(written(tmp_path, "a.jsonl", [{key: row[key]}])) == {key: value}
    assert written(tmp_path, "a.csv", [{"day": row["day"], "sum": row["sum"]}]) == (
        b"day,sum\n2026-01-02,0.10\n"
    )


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def test_deep_rows_are_written_whole(tmp_path):
    assert orjson.loads(written(tmp_path, "a.jsonl", [nested(300)])) == nested(300)


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
@pytest.mark.parametrize("error", [ValueError("source"), KeyboardInterrupt()])
def test_a_source_that_fails_leaves_nothing_behind(tmp_path, suffix, error):
    def rows():
        yield from ({"a": str(number)} for number in range(1500))
        raise error

    with pytest.raises(type(error)) as caught:
        write_records(tmp_path / f"a{suffix}", rows())
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_the_file_appears_whole_at_the_end(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with RecordWriter(path) as writer:
        for number in range(2500):
            writer.write({"a": str(number)})
            assert not path.exists()
        assert writer.rows == 2500
    assert list(tmp_path.iterdir()) == [path]
    assert [record.value["a"] for record in read_records(path)] == [str(number) for number in range(2500)]


def refused(path, rows):
    before = sorted(path.parent.iterdir())
    with pytest.raises(DataError) as caught:
        write_records(path, rows)
    assert caught.value.hint
    assert sorted(path.parent.iterdir()) == before
    return caught.value


def test_an_existing_file_is_refused_before_a_row_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("mine")
    source = iter([{"a": 1}])
    error = refused(path, source)
    assert str(error) == f"{path}: the output exists already"
    assert "name another output" in error.hint
    assert path.read_text() == "mine"
    assert list(source) == [{"a": 1}]


@pytest.mark.parametrize(
    ("name", "close"),
    [("a.josnl", ".jsonl"), ("a.paquet", ".parquet"), ("a.jsnl.gz", ".jsonl.gz"), ("a.cvs", ".csv")],
)
def test_an_unknown_suffix_is_refused_with_the_nearest(tmp_path, name, close):
    error = refused(tmp_path / name, [{"a": 1}])
    assert "is no suffix that can be written" in str(error)
    assert f"did you mean `{close}`?" in error.hint


def test_no_suffix_and_packed_parquet_are_refused(tmp_path):
    assert "the output has no suffix" in str(refused(tmp_path / "rows", []))
    assert "`.parquet.gz` is no suffix" in str(refused(tmp_path / "a.parquet.gz", []))


def test_a_missing_folder_is_refused_with_the_command(tmp_path):
    with pytest.raises(DataError, match="there is no folder") as caught:
        write_records(tmp_path / "deep" / "a.jsonl", [])
    assert caught.value.hint == f"`mkdir -p {tmp_path / 'deep'}`"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_column_that_comes_late_is_refused_with_its_row(tmp_path, suffix):
    early = [{"a": "1"}] * 999 + [{"b": "2"}]
    assert written(tmp_path, f"a{suffix}", early)
    error = refused(tmp_path / f"a{suffix}", [*early, {"a": "1"}, {"c": "3"}])
    assert "row 1002 has `c`, which none of the first 1000 rows has" in str(error)
    assert error.hint == f"write JSON lines, which hold any row: `{tmp_path / 'a.jsonl'}`"


def test_csv_refuses_a_nested_value(tmp_path):
    error = refused(tmp_path / "a.csv.gz", [{"a": "1"}, {"a": ["1"]}])
    assert "row 2: `a` is a list, and a CSV cell holds only text" in str(error)
    assert "a.jsonl`" in error.hint
    assert "the rows have no columns" in str(refused(tmp_path / "a.csv", [{}]))


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([{"a": 1}, {"a": "x"}], "rows 1 to 2: `a` does not fit one Parquet column"),
        ([{"a": "x"}] * 1000 + [{"a": 1}], "rows 1001 to 1001: `a` .* it is of type int64 there, and string"),
        ([{"a": {"b": 1}}] * 1000 + [{"a": {"c": 1}}], "it is of type struct<c: int64> there, and struct<b"),
        ([{"a": {}}], "an object without keys has no form in Parquet"),
        ([{"a": 2**80}], "rows 1 to 1: `a` does not fit one Parquet column"),
    ],
)
def test_parquet_refuses_what_one_column_cannot_hold(tmp_path, rows, why):
    error = refused(tmp_path / "a.parquet", rows)
    with pytest.raises(DataError, match=why):
        raise error


@pytest.mark.parametrize("value", [b"bytes", "half \ud800", {1: 2}, {"a": 2**80, "b": "\ud800"}])
def test_what_is_no_json_is_refused_with_its_row(tmp_path, value):
    error = refused(tmp_path / "a.jsonl", [{"a": 1}, {"a": value}])
    assert "row 2 has no form in JSON" in str(error)


def test_csv_refuses_half_a_character(tmp_path):
    assert "row 2 holds half of a surrogate pair" in str(
        refused(tmp_path / "a.csv", [{"a": "x"}, {"a": "\udc80"}])
    )


def test_a_folder_that_takes_no_file_is_told(tmp_path):
    path = tmp_path / f"{'n' * 300}.jsonl"
    with pytest.raises(DataError, match="cannot be written: File name too long"):
        write_records(path, [{"a": 1}])
    assert list(tmp_path.iterdir()) == []

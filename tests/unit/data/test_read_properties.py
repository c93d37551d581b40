import csv
import io
import json

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tunesmith.data.read import read_records
from tunesmith.errors import DataError

# One folder for all examples of a test is meant: each example writes its own whole file.
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
)
JSON = st.recursive(
    SCALARS | TEXT, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)
OBJECTS = st.lists(st.dictionaries(TEXT, JSON, max_size=4), min_size=1, max_size=6)


def read(path, content):
    path.write_bytes(content)
    return list(read_records(path))


@same_folder
@given(rows=OBJECTS, ascii_only=st.booleans(), indent=st.sampled_from([None, 0, 2]))
def test_json_lines_and_arrays_give_back_what_was_written(tmp_path, rows, ascii_only, indent):
    dumped = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    from_lines = read(tmp_path / "rows.jsonl", "\n".join(dumped).encode())
    array = json.dumps(rows, ensure_ascii=ascii_only, indent=indent)
    from_array = read(tmp_path / "rows.json", array.encode())
    assert [record.value for record in from_lines] == rows
    assert [record.value for record in from_array] == rows
    assert [record.line for record in from_lines] == list(range(1, len(rows) + 1))


@same_folder
@given(rows=OBJECTS, gaps=st.lists(st.integers(0, 3), min_size=7, max_size=7))
def test_line_of_an_array_element_is_one_more_than_the_line_breaks_before_it(tmp_path, rows, gaps):
    text, expected = "[", []
    for at, row in enumerate(rows):
        text += ("," if at else "") + "\n" * gaps[at]
        expected.append(text.count("\n") + 1)
        text += json.dumps(row, indent=1)
    records = read(tmp_path / "rows.json", (text + "\n" * gaps[-1] + "]").encode())
    assert [record.line for record in records] == expected


@same_folder
@given(
    table=st.lists(st.lists(TEXT, min_size=3, max_size=3), min_size=1, max_size=5),
    ending=st.sampled_from(["\n", "\r\n"]),
)
def test_csv_gives_back_every_text(tmp_path, table, ending):
    file = io.StringIO(newline="")
    # All values in quotes: Python's writer leaves some line breaks bare otherwise.
    csv.writer(file, lineterminator=ending, quoting=csv.QUOTE_ALL).writerows([["a", "b", "c"], *table])
    records = read(tmp_path / "rows.csv", file.getvalue().encode())
    assert [list(record.value.values()) for record in records] == table


@same_folder
@given(texts=st.lists(TEXT, min_size=1, max_size=5))
def test_parquet_gives_back_every_text(tmp_path, texts):
    parquet.write_table(pa.table({"text": texts}), tmp_path / "rows.parquet")
    assert [record.value for record in read_records(tmp_path / "rows.parquet")] == [
        {"text": text} for text in texts
    ]


STARTS = st.sampled_from(
    [b"", b"[", b"{", b"PAR1", b'{"a": 1}\n', b"[{", b'[{"a": "', b"a,b\n", b"\xef\xbb\xbf"]
)


@same_folder
@given(
    start=STARTS,
    rest=st.binary(max_size=40) | st.text(alphabet='[]{}",: \n\\u0d8aN1', max_size=40).map(str.encode),
    suffix=st.sampled_from([".json", ".jsonl", ".csv", ".parquet"]),
)
def test_any_bytes_give_records_or_a_data_error(tmp_path, start, rest, suffix):
    path = tmp_path / f"rows{suffix}"
    try:
        records = read(path, start + rest)
    except DataError as error:
        assert f"{path}:" in str(error)
        assert error.hint
    else:
        assert records
        assert all(isinstance(record.value, dict) and record.line >= 1 for record in records)


@same_folder
@given(rows=OBJECTS, data=st.data())
def test_an_array_cut_anywhere_is_an_error_never_fewer_rows(tmp_path, rows, data):
    content = json.dumps(rows, indent=1).encode()
    cut = data.draw(st.integers(0, len(content) - 1))
    try:
        read(tmp_path / "rows.json", content[:cut])
    except DataError as error:
        assert error.hint
    else:
        raise AssertionError(f"{content[:cut]!r} was read as whole")

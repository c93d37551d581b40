import gzip
import json
import re

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.data.audit.check import CHUNK_ROWS, check_files
from tunesmith.data.audit.facts import Reading, examine
from tunesmith.data.audit.findings import guessed_columns
from tunesmith.data.audit.kinds import DIMENSIONS, KINDS, SEVERITIES
from tunesmith.data.audit.page import render_page
from tunesmith.data.audit.tally import Tally, Task, tally
from tunesmith.data.audit.tokens import wilson
from tunesmith.data.read import undecoded
from tunesmith.data.records import Record
from tunesmith.data.tickets import generate_tickets
from tunesmith.errors import DataError

TOPICS = ("rivers", "bread", "trains", "owls", "glass", "salt", "maps", "wool", "iron", "tea")

ASKS = ("Explain to me", "I want to know", "Write down")


def pair(number, **changes):
    """A good row, unlike all others."""
    topic, other = TOPICS[number % 10], TOPICS[(number // 10) % 10]
    row = {
        "instruction": f"{ASKS[number % 3]} how {topic} and {other} became part of story number {number}.",
        "output": f"In story {number} the {topic} come first, and {other} is what they lead to in the end.",
    }
    return row | changes


def write(path, rows):
    lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def found(report, kind):
    """Lines with a kind of fault, over all files."""
    return [line for f in report.findings if f.kind == kind for lines in f.lines.values() for line in lines]


def check(tmp_path, rows, **options):
    return check_files([write(tmp_path / "rows.jsonl", rows)], **options)


def test_good_rows_have_no_findings(tmp_path):
    report = check(tmp_path, [pair(number) for number in range(150)])
    assert [finding.kind for finding in report.findings] == []
    (file,) = report.files
    assert (file.rows, file.usable_rows, file.shapes) == (150, 150, {"instruction": 150})
    assert file.languages["answer"] == {"en": 1.0}
    assert file.spread["distinct_prompts"] == 1


FAULTS = {
    "bad_bytes": b'{"instruction": "caf\xe9", "output": "b"}',
    "not_json": b'{"instruction": "a\\d", "output": "b"}',
    "not_a_number": b'{"instruction": "a", "output": "b", "x": NaN}',
    "duplicate_key": b'{"instruction": "a", "output": "b", "output": "c"}',
    "too_deep": b"[" * 3000 + b"]" * 3000,
    "not_an_object": b"17",
    "empty_prompt": {"instruction": " ", "output": "A whole answer."},
    "empty_answer": {"instruction": "Tell me.", "output": ""},
    "placeholder": pair(901, input="<noinput>"),
    "unrendered": pair(902, output="I am {{name}}, and I am here for you."),
    "special_token": pair(903, output="This is a whole answer.<|endoftext|>"),
    "only_special_tokens": pair(904, output="<|endoftext|>"),
    "html": pair(905, output="The first line.<br/>The second line."),
    "mojibake": pair(906, output="The cafÃ© is open all day."),
    "zero_width": pair(907, output="The wo\u200brd is split in two."),
    "homoglyph": pair(908, output="The p\u0430ssword is known to all."),
    "control_character": pair(909, output="The bell \x07 rings at noon."),
    "refusal": pair(910, output="I'm sorry, but I can't assist with that."),
    "truncated_answer": pair(911, output="The first thing to do is to take the bread and to put it into the"),
    "unknown_shape": {"question": "What is it?", "answer": "It is a question."},
    "ambiguous_shape": pair(912, prompt="a", completion="b"),
    "mixed_shapes": {"prompt": "Tell me about the moon tonight.", "completion": "It is a full moon tonight."},
    "roles_out_of_order": {"messages": [{"role": "assistant", "content": "a"}]},
    "unknown_role": {"messages": [{"role": "tool", "content": "a"}]},
    "wrong_type": pair(913, output=7),
    "media": pair(914, images=["a.jpg"]),
    "preference_pair": pair(921, chosen="a", rejected="b"),
    "rated_answer": pair(915, label=False),
    "empty_tools": pair(916, tools="[]"),
    "mixed_language": pair(
        917, output="Das ist eine Antwort, die nicht auf Englisch ist und auch so bleibt."
    ),
    "secret": pair(918, output="The key is " + "hf_" + "aB3" * 12 + " for all."),
    "email": pair(919, output="Write to ada@example.org at any time."),
    "card_number": pair(920, output="Pay with 5555 5555 5555 " + "4444 if you like."),
    "loss_weight": {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b", "weight": 0},
        ]
    },
}


@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_is_found_on_its_line_and_only_there(tmp_path, kind):
    rows = [pair(number) for number in range(120)]
    rows.insert(70, FAULTS[kind])
    report = check(tmp_path, rows)
    assert found(report, kind) == [71]
    also = {"only_special_tokens": {"special_token"}}.get(kind, set())
    if not isinstance(FAULTS[kind], bytes) and "messages" in FAULTS[kind]:
        also = also | {"mixed_shapes"}
    assert {finding.kind for finding in report.findings} - also == {kind}
    (finding,) = [finding for finding in report.findings if finding.kind == kind]
    ((place, _),) = finding.rows
    assert place == f"{tmp_path / 'rows.jsonl'}:71"
    assert finding.mend


def test_copies_repeated_prompts_and_conflicts(tmp_path):
    rows = [pair(number) for number in range(120)]
    rows += [pair(5), pair(6, output="Something else altogether is true of it."), pair(7, id=3)]
    report = check(tmp_path, rows)
    assert found(report, "duplicate_row") == [121, 123]
    assert sorted(found(report, "conflicting_answers")) == [7, 122]
    assert sorted(found(report, "repeated_prompt")) == [6, 7, 8, 121, 122, 123]
    copies = next(finding for finding in report.findings if finding.kind == "duplicate_row")
    assert [excerpt for _, excerpt in copies.rows] == ["copies line 6", "copies line 8"]


def test_rows_that_share_a_line_are_counted_one_by_one(tmp_path):
    rows = [pair(number) for number in range(120)]
    rows += [*rows[:14], pair(200, output="Das ist eine Antwort, die nicht auf Englisch ist.")]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    report = check_files([path], near=False)
    assert found(report, "duplicate_row") == [1] * 14
    assert found(report, "repeated_prompt") == [1] * 28
    assert found(report, "mixed_language") == [1]


def test_a_row_in_another_language_counts_once_whatever_is_in_it(tmp_path):
    german = {"instruction": "Was ist das und wo ist es?", "output": "Das ist ein Haus und es ist hier."}
    report = check(tmp_path, [*map(pair, range(120)), german])
    (finding,) = report.findings
    assert (finding.kind, finding.count, finding.by_part) == ("mixed_language", 1, {"prompt": 1, "answer": 1})


def test_near_copies_are_the_later_rows_with_another_prompt(tmp_path):
    long = " ".join(f"word{number}" for number in range(60))
    rows = [pair(number) for number in range(120)]
    rows[10] = pair(10, instruction=long)
    rows += [pair(10, instruction=long.replace("word30", "other"))]
    report = check(tmp_path, rows)
    assert found(report, "near_duplicate") == [121]
    assert report.files[0].near_duplicates
    silent = check(tmp_path, rows, near=False)
    assert found(silent, "near_duplicate") == []
    assert not silent.files[0].near_duplicates


def test_answers_in_json_that_drift(tmp_path):
    rows, _ = generate_tickets(seed=1, train_rows=120, test_rows=0)
    rows[7] = rows[7] | {"completion": rows[7]["completion"][:-4]}
    rows[9] = rows[9] | {"completion": "I think it is about a kettle."}
    report = check(tmp_path, rows, near=False)
    assert found(report, "format_drift") == [8, 10]


def test_prose_that_never_has_stops_is_a_style(tmp_path):
    rows = [
        pair(n, output=f"here is how number {n} goes on and on without a stop at all") for n in range(120)
    ]
    assert found(check(tmp_path, rows), "truncated_answer") == []


def test_few_rows_and_same_openings_are_told(tmp_path):
    report = check(tmp_path, [pair(number) for number in range(20)])
    (few,) = report.findings
    assert (few.kind, few.count, few.rows) == ("few_rows", 20, ())
    rows = [pair(n, instruction=f"Please tell me what {TOPICS[n % 10]} number {n} is.") for n in range(120)]
    (same,) = check(tmp_path, rows, near=False).findings
    assert (same.kind, same.count, same.note) == (
        "same_opening",
        120,
        "of 120 sampled, with `please tell me`",
    )


def test_lengths_by_a_given_measure(tmp_path):
    rows = [pair(n, output="word " * (50 if n == 3 else 5) + "end.") for n in range(120)]

    def measure(row):
        prompt, answer = (len(text.split()) for text in (row.prompt[-1].text, row.reference))
        return prompt + answer, answer, max(0, min(answer, 30 - prompt))

    rows[9] = pair(9, instruction="long " * 40)
    report = check(tmp_path, rows, measure=measure, max_length=30, near=False)
    assert found(report, "too_long") == [4, 10]
    assert found(report, "answer_lost") == [10]
    tokens = report.files[0].tokens
    assert tokens.n == 120
    assert tokens.row["max"] == max(
        sum(map(len, (r["instruction"].split(), r["output"].split()))) for r in rows
    )
    assert sum(tokens.row["histogram"]["counts"]) == 120
    assert tokens.over_max_length[0] == 2 / 120


def test_large_files_are_sampled_and_say_so(tmp_path):
    rows = [pair(n, output="x " * (n % 10)) for n in range(12_000)]
    report = check(
        tmp_path, rows, measure=lambda row: (len(row.reference.split()), 1, 1), max_length=8, near=False
    )
    tokens = report.files[0].tokens
    assert tokens.is_sample
    assert 3_500 < tokens.n < 4_500
    long = next(finding for finding in report.findings if finding.kind == "too_long")
    assert re.fullmatch(r"estimated from \d+ rows: 1\d\.\d%, 95 % interval [\d.]+% to [\d.]+%", long.note)
    _, low, high = tokens.over_max_length
    # Each tenth row is empty and cannot be used, each ninth of the others is too long.
    assert low < 1 / 9 < high


def test_a_tally_in_parts_is_the_tally_of_the_whole(tmp_path):
    rows = [pair(number) for number in range(300)]
    for at, kind in enumerate(FAULTS):
        rows.insert(at * 7, FAULTS[kind])
    found = list(undecoded(write(tmp_path / "rows.jsonl", rows)))
    task = Task(Reading(), sample_share=0.3, with_signatures=True, hint="")
    whole = tally(found, task)
    joined = Tally()
    for start in range(0, len(found), 64):
        joined.extend(tally(found[start : start + 64], task, first=start))
    for name in Tally.__slots__:
        if name == "signatures":
            import numpy as np

            assert (np.concatenate(joined.signatures) == np.concatenate(whole.signatures)).all()
        else:
            assert getattr(joined, name) == getattr(whole, name), name


def test_several_processes_find_what_one_does(tmp_path, monkeypatch):
    rows = [pair(number) for number in range(3 * CHUNK_ROWS)]
    rows[4_321] = FAULTS["html"]
    rows[5_000] = FAULTS["not_json"]
    path = write(tmp_path / "rows.jsonl", rows)
    monkeypatch.setattr("tunesmith.data.audit.check.PARALLEL_BYTES", 1)
    reports = [check_files([path], workers=workers, near=True).as_dict() for workers in (1, 2)]
    for report in reports:
        report["files"][0].pop("seconds")
    assert reports[0] == reports[1]


def test_parts_of_a_data_set_are_one_report_with_their_leaks(tmp_path):
    train = write(tmp_path / "train.jsonl", [pair(number) for number in range(120)])
    long = " ".join(f"word{number}" for number in range(60))
    write(train, [*[pair(number) for number in range(120)], pair(300, instruction=long)])
    rows = [
        pair(500),
        pair(3, output="Another answer than in training."),
        pair(301, instruction=f"{long} more"),
    ]
    test = write(tmp_path / "test.jsonl", [*rows, pair(501, output="It is &nbsp; here.")])
    report = check_files([train, test])
    (leak,) = report.leakage
    assert (leak.exact, leak.near) == (1, 1)
    assert leak.rows == ((f"{test}:2", f"{train}:4"), (f"{test}:3", f"{train}:121"))
    markup = next(finding for finding in report.findings if finding.kind == "html")
    assert markup.by_file == {str(test): 1}


def test_a_file_to_compare_with_is_not_checked_itself(tmp_path):
    train = write(tmp_path / "train.jsonl", [pair(number) for number in range(120)])
    test = write(tmp_path / "test.jsonl", [pair(3), pair(500, output="")])
    report = check_files([train], against=[test])
    assert report.findings == ()
    assert [file.path for file in report.files] == [str(train)]
    assert report.leakage[0].exact == 1
    nothing = write(tmp_path / "none.jsonl", [{"text": "a"}])
    assert check_files([train], against=[nothing]).leakage[0].exact is None


def test_other_keys_are_guessed_and_mapped(tmp_path):
    rows = [{"question": row["instruction"], "answer": row["output"]} for row in map(pair, range(120))]
    (finding,) = check(tmp_path, rows).findings
    assert finding.kind == "unknown_shape"
    assert finding.mend.endswith("--columns instruction=question output=answer")
    reading = Reading(columns={"instruction": "question", "output": "answer"})
    assert check(tmp_path, rows, reading=reading).findings == ()
    assert guessed_columns(["text"]) is None


def test_the_tokenizers_own_control_tokens_count(tmp_path):
    rows = [pair(number) for number in range(120)]
    rows[3] = pair(3, output="The file is <odd_token> here.")
    assert found(check(tmp_path, rows), "special_token") == []
    assert found(
        check(tmp_path, rows, reading=Reading(control_tokens=("<odd_token>",))), "special_token"
    ) == [4]


def test_packed_and_array_files_are_checked_too(tmp_path):
    rows = [pair(number) for number in range(120)]
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in rows)))
    array = tmp_path / "rows.json"
    array.write_text(json.dumps(rows, indent=1))
    for path in (packed, array):
        assert check_files([path]).files[0].usable_rows == 120


def test_missing_and_empty_files_are_errors(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        check_files([tmp_path / "none.jsonl"])
    (tmp_path / "empty.csv").write_text("instruction,output\n")
    with pytest.raises(DataError, match="the file holds no rows"):
        check_files([tmp_path / "empty.csv"])


def test_page_holds_the_figures_and_no_markup_from_the_data(tmp_path):
    evil = "<script>alert(1)</script>"
    rows = [pair(number) for number in range(120)]
    rows[4] = pair(4, output=f"{{{{name}}}} {evil}")
    rows[5] = pair(5, output=f"I'm sorry, but I can't {evil}")
    rows[6] = {"messages": [{"role": evil, "content": "a"}]}
    report = check(tmp_path, rows, measure=lambda row: (len(row.reference), 1, 1), max_length=50)
    page = render_page(report, model="none")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert "1 row with a template field nobody filled in" in page
    assert page.count("<rect") > 10
    assert "119 of 120 rows can be trained on" in page


def test_catalogue_is_whole():
    for name, kind in KINDS.items():
        assert kind.dimension in DIMENSIONS, name
        assert kind.severity in SEVERITIES, name
        assert kind.why.endswith(".")
        assert not kind.mend.startswith("tunesmith") or kind.mend.split()[1] == "data"
    assert KINDS["email"].titled(1) == "1 row with an e-mail address"
    assert KINDS["duplicate_row"].titled(1_200) == "1,200 exact copies of an earlier row"


def test_interval_of_a_share():
    # Newcombe (1998), table I: 81 of 263.
    share, low, high = wilson(81, 263)
    assert (round(share, 4), round(low, 4), round(high, 4)) == (0.3080, 0.2553, 0.3662)
    assert wilson(0, 20)[1] == 0


def test_rows_of_unknown_shape_show_their_texts_by_role():
    turns = [{"from": "function_call", "value": "f(x)"}, {"role": "assistant", "content": "yes"}]
    facts = examine(Record(1, {"conversations": turns, "note": "n"}), Reading())
    assert facts.row is None
    assert ("answer", "yes") in facts.texts
    assert ("other", "f(x)") in facts.texts
    assert ("other", "n") in facts.texts


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    start=st.sampled_from(
        [b"", b"[", b"{", b'[{"a": "', b'{"prompt": "', b"a,b\n", b"\x1f\x8b\x08", b"PAR1"]
    ),
    rest=st.binary(max_size=60) | st.text(alphabet='[]{}",: \n\\\\u0d8aN1é你', max_size=60).map(str.encode),
    suffix=st.sampled_from([".json", ".jsonl", ".csv", ".parquet", ".json.gz"]),
)
def test_any_bytes_end_in_a_report_or_a_typed_error(tmp_path, start, rest, suffix):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(gzip.compress(start + rest) if suffix.endswith(".gz") else start + rest)
    try:
        report = check_files([path], near=True, workers=1)
    except DataError as error:
        assert str(path) in str(error)
        assert error.hint
    else:
        (file,) = report.files
        bad = sum(f.count for f in report.findings if KINDS[f.kind].dimension == "reading")
        assert file.rows + bad >= 1
        assert file.usable_rows <= file.rows


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
KEYS = st.sampled_from(
    ["instruction", "input", "output", "messages", "role", "content", "from", "tools", "label"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(rows=st.lists(st.dictionaries(KEYS, JSON, max_size=4), min_size=1, max_size=5))
def test_any_records_are_counted_one_by_one(tmp_path, rows):
    report = check_files(
        [write(tmp_path / "rows.jsonl", [orjson.dumps(row, option=0) for row in clean(rows)])]
    )
    assert report.files[0].rows == len(rows)


def clean(rows):
    """Rows without what JSON cannot hold: half surrogates and integers of more than 64 bits."""
    text = json.dumps(rows, ensure_ascii=False).encode(errors="replace").decode()
    return json.loads(text, parse_int=lambda digits: int(digits[:15]))

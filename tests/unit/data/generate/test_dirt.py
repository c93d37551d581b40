import json
import re
import unicodedata
from collections import Counter
from itertools import combinations
from math import ceil
from pathlib import Path
from random import Random

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tunesmith.data.generate as package
from tunesmith.data.generate.dirt import KINDS, UNLESS_ASKED, plant
from tunesmith.data.generate.dirt_copies import similarity
from tunesmith.data.generate.dirt_site import phrases
from tunesmith.errors import DataError

WORDS = re.findall(
    r"\w+",
    "river stone market window garden letter the copper basket signal a harbour meadow lantern "
    "and ticket weather violin bridge the paper forest engine is blanket ladder orchard mirror "
    "of castle pepper a wagon",
)
FOR_JSON = {"format_drift"}
PROSE_KINDS = tuple(kind for kind in KINDS if kind not in FOR_JSON)
COPIES = {"duplicate_row", "near_duplicate", "conflicting_answers"}
SHARE = 0.03


def sentence(random, words):
    chosen = random.choices(WORDS, k=words)
    return f"{chosen[0].capitalize()} {' '.join(chosen[1:])}."


def prose_rows(count, seed=0):
    random = Random(seed)  # noqa: S311
    return [
        {
            "system": "Answer in one paragraph.",
            "prompt": f"Question {number}: {sentence(random, 12)} {sentence(random, 11)}",
            "completion": f"{sentence(random, 14)} {sentence(random, 13)}",
        }
        for number in range(count)
    ]


def json_rows(count, seed=0):
    random = Random(seed)  # noqa: S311
    return [
        {
            "prompt": f"Message {number}: {sentence(random, 12)}",
            "completion": json.dumps({"number": number, "text": sentence(random, 5)}),
        }
        for number in range(count)
    ]


ROWS = prose_rows(1000)
PLANTED = plant(ROWS, share=SHARE, seed=4, kinds=PROSE_KINDS)
JSON_ROWS = json_rows(600)
JSON_PLANTED = plant(JSON_ROWS, share=SHARE, seed=4)


def text_of(line):
    row = json.loads(line)
    return f"{row['prompt']}\n{row['completion']}"


def luhn(number):
    digits = [int(digit) for digit in number if digit.isdigit()][::-1]
    return (
        sum(digit if place % 2 == 0 else sum(divmod(digit * 2, 10)) for place, digit in enumerate(digits))
        % 10
        == 0
    )


def pairs_of(line):
    return json.loads(line, object_pairs_hook=list)


def is_utf8(line):
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_json(text):
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def roles(line):
    return [turn["role"] for turn in json.loads(line).get("messages", []) if turn["role"] != "system"]


def has_mixed_script_word(text):
    scripts = [
        {unicodedata.name(letter).split()[0] for letter in word if letter.isalpha()}
        for word in re.findall(r"\w+", text)
    ]
    return any("LATIN" in found and found & {"CYRILLIC", "GREEK"} for found in scripts)


def is_mojibake(text):
    for word in re.split("[ \n]", text):
        try:
            if word.encode("cp1252").decode() != word:
                return True
        except UnicodeError:
            pass
    return False


REFUSES = re.compile(
    r"\b(cannot|can't|can not|unable|not able|won't|decline|do not have personal|go(es)? against)\b"
)
SECRET = re.compile(
    r"sk-\w{40}|sk-proj-|xoxb-\d{11}-|PRIVATE KEY|eyJ\w+\.eyJ"
    r"|AKIA[A-Z2-7]{16}|gh[po]_\w{36}|github_pat_|\bhf_\w{34}"
)
# What each kind must show on its line, told by other means than those that plant it.
SHOWS = {
    "empty_prompt": lambda line: not json.loads(line)["prompt"].strip(),
    "empty_answer": lambda line: not json.loads(line)["completion"].strip(),
    "placeholder": lambda line: any(
        value in phrases()["placeholders"] for value in json.loads(line).values()
    ),
    "unrendered": lambda line: re.search(r"\{\{.+?\}\}", text_of(line)),
    "special_token": lambda line: re.search(r"<\|\w+\|>|</?s>|<\w+>|\[/?[A-Z]+\]|<<SYS>>", text_of(line)),
    "html": lambda line: re.search(r"<[a-z]+\b[^>]*>|&\w+;", text_of(line)),
    "mojibake": lambda line: is_mojibake(text_of(line)),
    "zero_width": lambda line: re.search("[A-Za-z][\u200b\ufeff\u2060][A-Za-z]", text_of(line)),
    "homoglyph": lambda line: has_mixed_script_word(text_of(line)),
    "control_character": lambda line: any(
        unicodedata.category(letter) == "Cc" and letter not in "\n\t" for letter in text_of(line)
    ),
    "refusal": lambda line: REFUSES.search(json.loads(line)["completion"]),
    "truncated_answer": lambda line: json.loads(line)["completion"][-1].islower(),
    "mixed_language": lambda line: "Question" not in json.loads(line)["prompt"],
    "format_drift": lambda line: not is_json(json.loads(line)["completion"]),
    "secret": lambda line: SECRET.search(text_of(line)),
    "email": lambda line: re.search(r"\S+@\S+\.\w+", text_of(line)),
    "card_number": lambda line: any(map(luhn, re.findall(r"\d[\d -]{13,18}\d", text_of(line)))),
    "too_long": lambda line: 3_000 <= len(json.loads(line)["prompt"].split()) < 3_100,
    "bad_bytes": lambda line: not is_utf8(line),
    "not_json": lambda line: is_utf8(line) and not is_json(line) and "NaN" not in line.decode(),
    "not_a_number": lambda line: any(value != value or abs(value) == float("inf") for value in numbers(line)),
    "duplicate_key": lambda line: [key for key, _ in pairs_of(line)].count("completion") == 2,
    "roles_out_of_order": lambda line: roles(line) != ["user", "assistant"] * (len(roles(line)) // 2),
    "unknown_shape": lambda line: not json.loads(line).keys() & {"prompt", "completion", "messages"},
}


def numbers(line):
    return [value for value in json.loads(line).values() if isinstance(value, float)]


def entries(planted, kind):
    return [entry for entry in planted.key if entry["kind"] == kind and "caused_by" not in entry]


def test_the_same_arguments_give_the_same_bytes_and_another_seed_does_not():
    again = plant(ROWS, share=SHARE, seed=4, kinds=PROSE_KINDS[::-1])
    assert (again.lines, again.key) == (PLANTED.lines, PLANTED.key)
    assert plant(ROWS, share=SHARE, seed=5, kinds=PROSE_KINDS).lines != PLANTED.lines


def test_the_tests_know_every_kind():
    assert set(SHOWS) | COPIES == set(KINDS)


@pytest.mark.parametrize("kind", [*SHOWS, *sorted(COPIES)])
def test_each_kind_is_in_exactly_its_share_of_the_rows(kind):
    planted, rows = (JSON_PLANTED, JSON_ROWS) if kind in FOR_JSON else (PLANTED, ROWS)
    groups = 2 if kind == "conflicting_answers" else 1
    assert len(entries(planted, kind)) == groups * ceil(SHARE * len(rows))


@pytest.mark.parametrize("kind", SHOWS)
def test_each_fault_shows_on_its_line_and_on_no_good_line(kind):
    planted = JSON_PLANTED if kind in FOR_JSON else PLANTED
    for entry in entries(planted, kind):
        assert SHOWS[kind](planted.lines[entry["line"] - 1]), entry
    good = planted_free(planted)
    assert good and not any(SHOWS[kind](line) for line in good)


def planted_free(planted):
    flagged = {entry["line"] for entry in planted.key}
    return [line for number, line in enumerate(planted.lines, start=1) if number not in flagged]


@pytest.mark.parametrize(
    ("planted", "rows"), [(PLANTED, ROWS), (JSON_PLANTED, JSON_ROWS)], ids=["prose", "json"]
)
def test_lines_without_a_fault_are_the_rows_in_order(planted, rows):
    lines = [orjson.dumps(row) for row in rows]
    places = {line: number for number, line in enumerate(lines)}
    kept = [places[line] for line in planted_free(planted)]
    assert kept == sorted(set(kept))
    copies = [entry for entry in planted.key if "original_line" in entry]
    assert len(planted.lines) == len(rows) + len(copies)


def test_without_its_copies_each_line_is_at_its_row_and_differs_only_where_the_key_says():
    copies = {entry["line"] for entry in PLANTED.key if "original_line" in entry}
    spoiled = {entry["line"] for entry in PLANTED.key if entry["kind"] not in COPIES}
    own = [(number, line) for number, line in enumerate(PLANTED.lines, start=1) if number not in copies]
    assert len(own) == len(ROWS)
    for (number, line), row in zip(own, ROWS, strict=True):
        assert (line != orjson.dumps(row)) == (number in spoiled)


@pytest.mark.parametrize("planted", [PLANTED, JSON_PLANTED], ids=["prose", "json"])
def test_no_line_has_two_faults_but_for_named_consequences(planted):
    lines = Counter(entry["line"] for entry in planted.key if "caused_by" not in entry)
    assert set(lines.values()) == {1}
    kinds = {(entry["line"], entry["kind"]) for entry in planted.key}
    for entry in planted.key:
        if "caused_by" in entry:
            assert entry["kind"] == "format_drift" and (entry["line"], entry["caused_by"]) in kinds
            assert not is_json(json.loads(planted.lines[entry["line"] - 1])["completion"])


def test_no_line_holds_a_line_break_and_all_parse_but_those_said_not_to():
    broken = {
        entry["line"] for entry in PLANTED.key if entry["kind"] in ("bad_bytes", "not_json", "not_a_number")
    }
    for number, line in enumerate(PLANTED.lines, start=1):
        assert b"\n" not in line
        assert is_json(line) == (number not in broken)


def test_answers_in_json_parse_unless_the_key_says_drift_or_empty():
    excused = {"format_drift", "empty_answer", "bad_bytes", "not_json", "not_a_number", "duplicate_key"}
    excused |= {"roles_out_of_order", "unknown_shape"}
    flagged = {entry["line"] for entry in JSON_PLANTED.key if entry["kind"] in excused}
    for number, line in enumerate(JSON_PLANTED.lines, start=1):
        assert number in flagged or is_json(json.loads(line)["completion"])


def test_copies_stand_after_their_originals_and_are_what_their_kind_says():
    for entry in (entry for entry in PLANTED.key if "original_line" in entry):
        assert entry["original_line"] < entry["line"]
        original, copy = (json.loads(PLANTED.lines[entry[name] - 1]) for name in ("original_line", "line"))
        same = {name for name in original if original[name] == copy[name]}
        expected = {"duplicate_row": set(original), "near_duplicate": {"system", "completion"}}
        assert same == expected.get(entry["kind"], {"system", "prompt"})


def test_near_duplicates_share_four_in_five_shingles_and_other_rows_do_not():
    for entry in entries(PLANTED, "near_duplicate"):
        original, copy = (text_of(PLANTED.lines[entry[name] - 1]) for name in ("original_line", "line"))
        shingles = [
            set(zip(*(words[at:] for at in range(3)), strict=False)) for words in (w(original), w(copy))
        ]
        assert len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1]) >= 0.8
    foreign = [text_of(PLANTED.lines[entry["line"] - 1]) for entry in entries(PLANTED, "mixed_language")]
    long = [text_of(PLANTED.lines[entry["line"] - 1]) for entry in entries(PLANTED, "too_long")]
    assert all(similarity(*pair) < 0.8 for texts in (foreign, long[:8]) for pair in combinations(texts, 2))


def test_rows_in_other_languages_are_no_near_duplicates_of_each_other_in_a_large_file():
    planted = plant(prose_rows(400), share=1, seed=6, kinds=["mixed_language"])
    texts = [text_of(line) for line in planted.lines]
    shingles = []
    for text in texts:
        parts = re.findall(r"[぀-ヿ㐀-鿿]|[^\W぀-ヿ㐀-鿿]+", text.lower())
        shingles.append(set(zip(parts, parts[1:], parts[2:], strict=False)))
    assert all(len(one & other) / len(one | other) < 0.8 for one, other in combinations(shingles, 2))
    assert len({entry["what"] for entry in planted.key}) == 9


def w(text):
    return re.findall(r"\w+", text.lower())


def test_a_prompt_has_two_answers_only_where_the_key_says():
    answers = {}
    expected = {entry["line"] for entry in entries(PLANTED, "conflicting_answers")}
    excused = {
        "bad_bytes",
        "not_json",
        "not_a_number",
        "roles_out_of_order",
        "unknown_shape",
        "duplicate_key",
    }
    skipped = {entry["line"] for entry in PLANTED.key if entry["kind"] in excused}
    for number, line in enumerate(PLANTED.lines, start=1):
        if number not in skipped and (row := json.loads(line))["prompt"].strip():
            answers.setdefault(row["prompt"].casefold(), {}).setdefault(row["completion"], []).append(number)
    found = {n for group in answers.values() if len(group) > 1 for lines in group.values() for n in lines}
    assert found == expected


def test_a_truncated_answer_is_a_start_of_the_answer_and_stops_within_a_sentence():
    whole = {row["prompt"]: row["completion"] for row in ROWS}
    for entry in entries(PLANTED, "truncated_answer"):
        row = json.loads(PLANTED.lines[entry["line"] - 1])
        cut, answer = row["completion"], whole[row["prompt"]]
        assert answer.startswith(cut) and re.match(r" [a-z]", answer[len(cut) :])


def test_a_homoglyph_looks_the_same_letter_by_letter():
    whole = {orjson.loads(orjson.dumps(row))["prompt"][:14]: row for row in ROWS}
    for entry in entries(PLANTED, "homoglyph"):
        row = json.loads(PLANTED.lines[entry["line"] - 1])
        original = next(whole[key] for key in whole if has_start(row["prompt"], key))
        changed = [
            (a, b)
            for n in ("prompt", "completion")
            for a, b in zip(row[n], original[n], strict=True)
            if a != b
        ]
        assert 1 <= len(changed) <= 3
        assert all(b.isascii() and not a.isascii() for a, b in changed)


def has_start(prompt, start):
    """Whether the numbers at the start agree; letters may have been replaced."""
    return re.findall(r"\d+", prompt[:14]) == re.findall(r"\d+", start)


def test_secrets_come_in_many_families():
    planted = plant(ROWS, share=0.2, seed=1, kinds=["secret"])
    assert len({entry["what"].split(" in the ")[0] for entry in planted.key}) >= 7


def test_no_source_file_holds_a_key():
    for path in Path(package.__path__[0]).glob("dirt*"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"sk-|AKIA|ghp_|hf_[A-Za-z]|xoxb|BEGIN [A-Z ]*PRIVATE|eyJ", text), path.name


def test_phrases_are_enough_and_each_pair_carries_its_number():
    pools = phrases()
    pairs = [pair for pairs in pools["foreign"].values() for pair in pairs]
    assert len(pools["foreign"]) == 9 and len(pairs) >= 30
    assert all(text.count("{number}") == 1 for pair in pairs for text in pair)
    assert len(set(pools["refusals"])) >= 12
    assert all(re.search(r"(?<!\w)(I|AI)\b", text) for text in pools["refusals"])


def test_a_file_in_french_gets_no_french_rows():
    rows = [
        {
            "prompt": f"Quelle est la capitale de la région {number} et pour qui ?",
            "completion": f"C'est {number}.",
        }
        for number in range(60)
    ]
    planted = plant(rows, share=1, seed=2, kinds=["mixed_language"])
    assert {entry["what"] for entry in planted.key} >= {"the row is in another language (de)"}
    assert not any("(fr)" in entry["what"] for entry in planted.key)


def test_prose_gets_truncated_and_json_drifts_when_no_kinds_are_named():
    prose = {entry["kind"] for entry in plant(ROWS, share=0.01, seed=1).key}
    assert prose == set(KINDS) - FOR_JSON - set(UNLESS_ASKED)
    of_json = {entry["kind"] for entry in JSON_PLANTED.key}
    assert of_json == set(KINDS) - {"truncated_answer", "near_duplicate"} - set(UNLESS_ASKED)


def test_rows_that_share_a_prompt_stay_as_they_are():
    rows = [*prose_rows(30), *({"prompt": "Again?", "completion": f"Yes {number}."} for number in range(30))]
    planted = plant(rows, share=0.4, seed=1, kinds=["empty_answer"])
    assert max(entry["line"] for entry in planted.key) <= 30


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"completion": st.text(min_size=1), "prompt": st.text(min_size=1)},
            optional={"system": st.text()},
        ).filter(
            # By the word NaN this test tells a number that is none from other broken lines.
            lambda row: row["prompt"].strip() and row["completion"].strip() and "NaN" not in str(row)
        ),
        min_size=3,
        max_size=8,
        unique_by=lambda row: " ".join(row["prompt"].casefold().split()),
    ),
    kind=st.sampled_from(
        ["bad_bytes", "not_json", "not_a_number", "special_token", "email", "roles_out_of_order"]
    ),
    seed=st.integers(0, 99),
)
def test_any_text_can_carry_the_faults_that_need_nothing_of_it(rows, kind, seed):
    planted = plant(rows, share=0.5, seed=seed, kinds=[kind])
    flagged = [entry["line"] for entry in planted.key]
    assert len(flagged) == ceil(len(rows) / 2)
    assert all(SHOWS[kind](planted.lines[line - 1]) for line in flagged)
    rest = [
        (line, row)
        for n, (line, row) in enumerate(zip(planted.lines, rows, strict=True), 1)
        if n not in flagged
    ]
    assert all(line == orjson.dumps(row) for line, row in rest)


def test_refuses_a_kind_it_does_not_know():
    with pytest.raises(DataError, match="`mojibak` is no kind of fault") as caught:
        plant(ROWS, share=0.1, seed=1, kinds=["mojibak"])
    assert caught.value.hint == "did you mean `mojibake`?"


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan")])
def test_refuses_a_share_out_of_range(share):
    with pytest.raises(DataError, match=f"the share of faults is {share}"):
        plant(ROWS, share=share, seed=1)


@pytest.mark.parametrize(
    ("rows", "kind"), [(ROWS, "format_drift"), (JSON_ROWS, "truncated_answer"), (JSON_ROWS, "near_duplicate")]
)
def test_refuses_a_kind_that_no_row_can_carry(rows, kind):
    with pytest.raises(
        DataError, match=rf"`{kind}` needs \d+ rows, and 0 of the \d+ rows .* can carry it"
    ) as caught:
        plant(rows, share=0.01, seed=1, kinds=[kind])
    assert "leave this kind out" in caught.value.hint


def test_refuses_more_faults_than_rows():
    with pytest.raises(DataError, match=r"needs 100 rows, and \d+ of the \d+ rows without a fault") as caught:
        plant(ROWS, share=0.1, seed=1)
    assert caught.value.hint.startswith("lower the share")


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"prompt": "Hi", "completion": " "}, "row 2: `completion` is empty"),
        ({"completion": "Hi"}, "row 2: `prompt` is null"),
        ({"prompt": "Hi", "completion": 3}, "row 2: `completion` is a number"),
    ],
)
def test_refuses_rows_that_are_not_good(row, what):
    with pytest.raises(DataError, match=what):
        plant([ROWS[0], row], share=0.5, seed=1)

"""`tunesmith data split`: whole, in order, stratified; the parts share no prompt and no near copy."""

import json
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_files import file_of, typed
from tunesmith.cli.data_split import split
from tunesmith.data.near import jaccard, shingles
from tunesmith.data.read import read_records
from tunesmith.data.split import PARTS, TEST, TRAIN, VALIDATION, grouped, rank, split_ranks
from tunesmith.data.split_file import SplitRequest, split_file
from tunesmith.data.strata import apportioned, stratum_of
from tunesmith.errors import DataError, UserError

# One folder for all examples of a test is meant: each example writes its own files anew.
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

WORDS = (
    *("amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "juniper", "kelp"),
    *("linden", "maple", "nettle", "otter"),
)
SIZES = st.sampled_from([0, 0.05, 0.1, 0.25, 0.4])
GROUPS = st.lists(st.integers(1, 4), min_size=1, max_size=30)


@pytest.fixture
def run(capsys):
    return typed(split, "split", capsys)


def pairs(*prompts, **more):
    return [{"prompt": prompt, "completion": f"answer {at}"} | more for at, prompt in enumerate(prompts)]


def parts_in(folder, suffix=".jsonl"):
    paths = {part: folder / f"{part}{suffix}" for part in PARTS}
    return {
        part: [r.value for r in read_records(path)] if path.exists() else [] for part, path in paths.items()
    }


def ranks_of(groups):
    return [rank(f"prompt {at}", seed=3) for at, size in enumerate(groups) for _ in range(size)]


@given(GROUPS, SIZES, SIZES, st.lists(st.lists(st.integers(0, 200), min_size=2, max_size=4), max_size=4))
def test_every_row_has_one_part_and_what_belongs_together_the_same(groups, validation, test, together):
    ranks = ranks_of(groups)
    together = [[at % len(ranks) for at in found] for found in together]
    where = split_ranks(ranks, validation_size=validation, test_size=test, together=together)
    assert len(where) == len(ranks)
    assert TRAIN in where
    for found in (*grouped(ranks), *together):
        assert len({where[at] for at in found}) == 1


@given(GROUPS, st.lists(st.lists(st.integers(0, 200), min_size=2, max_size=4), max_size=6))
def test_groups_are_a_partition_and_the_finest_one_that_keeps_all_together(groups, together):
    ranks = ranks_of(groups)
    together = [[at % len(ranks) for at in found] for found in together]
    result = grouped(ranks, together)
    assert sorted(at for group in result for at in group) == list(range(len(ranks)))
    reached = {at: {at} for at in range(len(ranks))}
    links = [*together, *([at for at, key in enumerate(ranks) if key == one] for one in set(ranks))]
    for _ in range(len(links)):
        for link in links:
            whole = set().union(*(reached[at] for at in link))
            reached |= dict.fromkeys(whole, whole)
    assert {frozenset(group) for group in result} == {frozenset(found) for found in reached.values()}


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from("abc")), min_size=1, max_size=40), SIZES, SIZES)
def test_each_value_has_its_share_within_one_group(groups, validation, test):
    ranks = ranks_of([size for size, _ in groups])
    strata = [value for size, value in groups for _ in range(size)]
    where = split_ranks(ranks, validation_size=validation, test_size=test, strata=strata)
    assert TRAIN in where
    counts = Counter(zip(strata, where, strict=True))
    for value, rows in Counter(strata).items():
        largest = max(size for size, other in groups if other == value)
        for part, size in ((VALIDATION, validation), (TEST, test)):
            # One row more: a part that is asked for gets one row at least, and shares are whole rows.
            assert abs(counts[value, part] - size * rows) <= largest + 1
        if sum(other == value for _, other in groups) > 1:
            assert counts[value, TRAIN]


def test_rare_values_do_not_swell_the_parts():
    strata = [f"value {at // 3}" for at in range(300)]
    ranks = [rank(str(at), seed=1) for at in range(300)]
    where = Counter(split_ranks(ranks, validation_size=0.1, test_size=0.1, strata=strata))
    assert (where[VALIDATION], where[TEST]) == (30, 30)


@given(st.integers(0, 60), st.dictionaries(st.text(max_size=2), st.integers(1, 30), min_size=1, max_size=6))
def test_shares_add_up_and_are_each_within_one_row(total, rows):
    shares = apportioned(total, rows)
    everything = sum(rows.values())
    assert sum(shares.values()) == min(total, everything)
    assert all(abs(shares[value] - min(total, everything) * rows[value] / everything) < 1 for value in rows)


def test_a_group_counts_as_its_commonest_value():
    assert stratum_of((0, 1, 2), ["b", "a", "b"]) == "b"
    assert stratum_of((0, 1), ["b", "a"]) == "a"


def test_fractions_of_the_command_are_not_capped_as_those_of_training_are():
    ranks = ranks_of([1] * 4000)
    assert Counter(split_ranks(ranks, validation_size=0.1, test_size=0.1))[TEST] == 400
    capped = Counter(split_ranks(ranks, validation_size=0.1, test_size=0.1, caps=(64, 200)))
    assert (capped[VALIDATION], capped[TEST]) == (64, 200)


@same_folder
@given(
    prompts=st.lists(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join), min_size=1, max_size=20
    ),
    data=st.data(),
)
def test_the_files_hold_all_rows_in_order_and_share_no_prompt(tmp_path_factory, prompts, data):
    folder = tmp_path_factory.mktemp("split")
    values = pairs(*prompts)
    file = file_of(folder, values)
    sizes = {"validation_size": data.draw(SIZES), "test_size": data.draw(SIZES)}
    done = split_file(SplitRequest(file, **sizes), folder / "parts")
    parts = parts_in(folder / "parts")
    assert {part: len(rows) for part, rows in parts.items()} == done.rows
    assert {part for part, rows in parts.items() if rows} == set(done.files)
    assert Counter(map(json.dumps, values)) == Counter(
        json.dumps(row) for rows in parts.values() for row in rows
    )
    for rows in parts.values():
        places = [values.index(row) for row in rows]
        assert places == sorted(places)
    seen = [{row["prompt"] for row in rows} for rows in parts.values()]
    assert sum(map(len, seen)) == len(set(prompts)) == done.prompts


def near_prompts():
    """Thirty texts of sixty words, each with a copy in which one word is another."""
    texts = [
        " ".join(f"{WORDS[(at * 7 + word) % 15]}{at * word % 41}" for word in range(60))
        for at in range(1, 31)
    ]
    return [copy for text in texts for copy in (text, f"{text.rsplit(' ', 1)[0]} stone")]


def test_no_near_copy_of_a_prompt_is_on_another_side(tmp_path):
    prompts = near_prompts()
    file = file_of(tmp_path, pairs(*prompts))
    request = SplitRequest(file, validation_size=0.25, test_size=0.25)
    done = split_file(request, tmp_path / "near")
    sides = [[shingles(row["prompt"]) for row in rows] for rows in parts_in(tmp_path / "near").values()]
    assert all(sides)
    for one in range(3):
        for other in range(one):
            assert max(jaccard(a, b) for a in sides[one] for b in sides[other]) < 0.8
    assert (done.prompts, done.groups, done.largest_group) == (60, 30, 2)
    exact = split_file(SplitRequest(file, is_near=False), tmp_path / "exact")
    assert (exact.prompts, exact.groups, exact.largest_group) == (60, 60, 1)


def test_a_system_message_does_not_make_prompts_alike(tmp_path):
    system = " ".join(WORDS * 4)
    file = file_of(tmp_path, pairs("one", "two", "three", "four", system=system))
    assert split_file(SplitRequest(file), tmp_path / "parts").groups == 4


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet", ".jsonl.gz", ".ndjson"])
def test_parts_are_in_the_container_of_the_file(tmp_path, run, suffix):
    from tunesmith.data.write import write_records

    values = pairs(*WORDS)
    file = tmp_path / f"rows{suffix}"
    write_records(file, values)
    run(file, tmp_path / "parts")
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == sorted(
        f"{p}{suffix}" for p in PARTS
    )
    parts = parts_in(tmp_path / "parts", suffix)
    assert sorted((row for rows in parts.values() for row in rows), key=values.index) == values


def test_the_report_in_json_and_the_seed(tmp_path, run):
    values = pairs(*WORDS, kind="a") + pairs(*(f"{word} stone" for word in WORDS)) + pairs(WORDS[0], kind=1)
    file = file_of(tmp_path, values)
    shown = json.loads(run(file, tmp_path / "one", "--stratify", "kind", "--test-size", "0.2", "--json").out)
    assert shown["rows"] == {"train": 22, "validation": 3, "test": 6}
    assert (shown["prompts"], shown["groups"], shown["largest_group"]) == (30, 30, 2)
    assert list(shown["strata"]) == ["a", "(none)", "1"]
    assert sum(count for counts in shown["strata"].values() for count in counts.values()) == 31
    assert shown["strata"]["a"]["test"] == shown["strata"]["(none)"]["test"] == 3
    run(file, tmp_path / "two", "--stratify", "kind", "--test-size", "0.2")
    run(file, tmp_path / "other", "--stratify", "kind", "--test-size", "0.2", "--seed", "18")
    assert parts_in(tmp_path / "two") == parts_in(tmp_path / "one") != parts_in(tmp_path / "other")


def test_the_tables_show_parts_groups_and_strata(tmp_path, run):
    file = file_of(tmp_path, pairs(*WORDS[:10], kind="tea [bold]"))
    shown = run(file, tmp_path / "parts", "--stratify", "kind", "--validation-size", "0").out
    lines = [line.split() for line in shown.splitlines()]
    assert ["train", "9", "90.0%"] in [line[:3] for line in lines]
    assert ["validation", "0", "0.0%", "none"] in lines
    assert "10 rows have 10 prompts, 10 groups with their near copies; the largest group has 1" in shown
    assert "tea [bold]" in shown and "1 (10.0%)" in shown
    assert not (tmp_path / "parts" / "validation.jsonl").exists()


def test_a_large_group_is_told_of(tmp_path, run):
    shown = run(file_of(tmp_path, pairs(*near_prompts()[:6])), tmp_path / "parts").out
    assert "`--no-near-duplicates` splits by exact prompts only" in shown


def test_other_key_names_and_shapes(tmp_path, run):
    file = file_of(tmp_path, [{"q": word, "a": "yes"} for word in WORDS])
    with pytest.raises(DataError, match=r"15 of 15 rows in .* cannot be used"):
        run(file, tmp_path / "parts")
    assert not (tmp_path / "parts").exists()
    run(file, tmp_path / "parts", "--columns", "prompt=q", "completion=a")
    assert set(parts_in(tmp_path / "parts")["test"][0]) == {"q", "a"}


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (
            ["--stratify", "kin"],
            "no row has a key `kin`; the keys are `prompt`, `completion`, `kind`",
            "--stratify kind",
        ),
        (["--test-size", "1.5"], "`test_size` is 1.5", "whole number of rows"),
        (["--test-size", "0.6", "--validation-size", "0.6"], "leave none of 15 rows", "make them smaller"),
        (["--columns", "prompt"], "is not of the form OURS=THEIRS", "instruction=question"),
    ],
)
def test_flags_that_make_no_sense(tmp_path, run, arguments, message, hint):
    with pytest.raises(UserError) as caught:
        run(file_of(tmp_path, pairs(*WORDS, kind="a")), tmp_path / "parts", *arguments)
    assert message in str(caught.value)
    assert hint in caught.value.hint
    assert not (tmp_path / "parts").exists()


def test_no_existing_part_is_written_over(tmp_path, run):
    (tmp_path / "validation.jsonl").write_text("mine")
    with pytest.raises(DataError, match=r"validation\.jsonl: the output exists already"):
        run(file_of(tmp_path, pairs(*WORDS)), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "validation.jsonl"]

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.conversation import Message, Row
from tunesmith.evaluation.metrics import exact_match_metric, metrics_for
from tunesmith.evaluation.significance import compare, score
from tunesmith.evaluation.slices import (
    KINDS,
    LEAST_ROWS,
    OTHER,
    perturbations_of,
    scores_by_slice,
    slices_of,
)


def row(path, line):
    return Row((Message("user", "q"), Message("assistant", "a")), str(path), line, "messages")


def names(slices, kind):
    return [each.get(kind) for each in slices]


def test_scripts_are_those_of_prompt_and_answer():
    prompts = ["Translate this", "请翻译这一句话"] * 5
    slices = slices_of(prompts, [["some words"], ["一些词语"]] * 5)
    assert names(slices, "script") == ["spaced", "han"] * 5


def test_lengths_are_thirds_of_the_references_tokens():
    references = [["word " * length, "x"] for length in range(1, 16)]
    slices = slices_of(["q"] * 15, references)
    assert Counter(names(slices, "length")) == {
        "short (up to 5)": 5,
        "middle (up to 10)": 5,
        "long (over 10)": 5,
    }
    assert slices[0]["length"] == "short (up to 5)"
    assert slices[14]["length"] == "long (over 10)"


def test_numbers_of_references_are_slices_where_they_vary():
    references = [["a"], ["a", "b"]] * 6
    assert names(slices_of(["q"] * 12, references), "references") == ["1", "2"] * 6
    assert slices_of(["q"] * 12, [["a", "b"]] * 12) == [{}] * 12


def test_few_rows_become_other_or_are_left_out():
    kinds = ["typos"] * 6 + ["case"] * 3 + ["entities"] * 2
    assert names(slices_of(["q"] * 11, [["a"]] * 11, perturbations=kinds), "perturbation") == (
        ["typos"] * 6 + [OTHER] * 5
    )
    fewer = ["typos"] * 6 + ["unchanged"] * 5 + ["case"] * 4
    assert names(slices_of(["q"] * 15, [["a"]] * 15, perturbations=fewer), "perturbation") == (
        ["typos"] * 6 + ["unchanged"] * 5 + [None] * 4
    )
    alone = ["typos"] * 6 + ["case"] * 4
    assert slices_of(["q"] * 10, [["a"]] * 10, perturbations=alone) == [{}] * 10


@given(
    st.lists(st.tuples(st.sampled_from("ab的"), st.integers(1, 9), st.sampled_from(["typos", "case", "x"])))
)
def test_no_slice_is_small_and_none_is_everything(rows):
    slices = slices_of(
        [letter for letter, _, _ in rows],
        [["w " * length] * (1 + length % 2) for _, length, _ in rows],
        perturbations=[kind for _, _, kind in rows],
    )
    assert len(slices) == len(rows)
    for kind in KINDS:
        sizes = Counter(name for name in names(slices, kind) if name is not None)
        assert len(sizes) != 1
        assert all(size >= LEAST_ROWS for size in sizes.values())


def test_perturbations_are_read_from_the_rows_file(tmp_path):
    file = tmp_path / "rows.jsonl"
    lines = [{"prompt": "p", "completion": "c", "perturbation": kind} for kind in ("typos", "case", 3, "")]
    lines.append({"prompt": "p", "completion": "c"})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    table = tmp_path / "rows.csv"
    table.write_text("prompt,completion,perturbation\np,c,entities\n", encoding="utf-8")
    rows = [row(file, line) for line in (2, 1, 3, 4, 5)] + [row(table, 2), row(tmp_path / "gone.jsonl", 1)]
    assert perturbations_of(rows) == ["case", "typos", *["unchanged"] * 3, "entities", "unchanged"]


def test_a_file_that_broke_since_labels_nothing_after_the_break(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"perturbation": "typos"}\nnot json\n{"perturbation": "case"}\n', encoding="utf-8")
    assert perturbations_of([row(file, 1), row(file, 2), row(file, 3)]) == ["typos", "unchanged", "case"]
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    assert perturbations_of([row(tmp_path / "empty.jsonl", 1)]) == ["unchanged"]


@pytest.fixture(scope="module")
def measured():
    texts = [f"answer {number} of many words" for number in range(24)]
    references = [[text] for text in texts]
    base = [text[:9] for text in texts]
    tuned = [text if number % 3 else "" for number, text in enumerate(texts)]
    return [
        (metric, metric.statistics(base, references), metric.statistics(tuned, references))
        for metric in metrics_for(references)
    ]


def test_a_slice_is_scored_as_its_rows_alone_are(measured):
    slices = [{"length": "short (up to 1)"}] * 10 + [{"length": "long (over 1)"}] * 14
    found = scores_by_slice(slices, measured, seed=3, resamples=100)
    assert [(part.kind, part.name, part.n) for part in found] == [
        ("length", "short (up to 1)", 10),
        ("length", "long (over 1)", 14),
    ]
    for place, (metric, base, tuned) in enumerate(measured):
        assert found[0].base[place] == score(metric, base[:10], seed=3, resamples=100)
        assert found[1].tuned[place] == score(metric, tuned[10:], seed=3, resamples=100)
        assert found[1].comparisons[place] == compare(metric, base[10:], tuned[10:], seed=3, resamples=100)


def test_a_model_alone_has_scores_by_slice_and_no_comparison(measured):
    alone = [(metric, base, None) for metric, base, _ in measured]
    found = scores_by_slice(
        [{"script": "han"}] * 12 + [{"script": "thai"}] * 12, alone, seed=3, resamples=100
    )
    assert [part.name for part in found] == ["han", "thai"]
    assert all((len(part.base), part.tuned, part.comparisons) == (len(alone), (), ()) for part in found)


def test_slices_come_in_a_fixed_order():
    slices = [
        {"references": "10", "length": "long (over 9)", "own": "b"},
        {"references": "2", "length": "short (up to 3)", "own": "a"},
        {"references": OTHER, "script": "han", "length": "middle (up to 9)"},
        {"script": OTHER, "perturbation": "typos"},
    ]
    rows = np.ones((4, 2))
    found = scores_by_slice(slices, [(exact_match_metric(), rows, None)], seed=1, resamples=100)
    assert [(part.kind, part.name) for part in found] == [
        ("script", "han"),
        ("script", OTHER),
        ("length", "short (up to 3)"),
        ("length", "middle (up to 9)"),
        ("length", "long (over 9)"),
        ("perturbation", "typos"),
        ("references", "2"),
        ("references", "10"),
        ("references", OTHER),
        ("own", "a"),
        ("own", "b"),
    ]


def test_rows_in_no_slice_give_no_slices(measured):
    assert scores_by_slice([{}] * 24, measured, seed=1) == ()

"""The speed benchmark's arithmetic: what it says must follow from what was measured."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch


def measured(task, *, rate, losses=(2.0, 1.5), peak=2e9, computed=1_250):
    return task.Measured(1_000, computed, 1_000 / rate, losses, int(peak), {"torch": "2"})


def outcomes(bench, rates, **losses):
    """One round: a rate by name; None where a contestant failed."""
    task, page = bench("peers.task"), bench("speed_page")
    names = {"ours": "ours", "same": page.SAME, "short": page.SHORT, "bound": page.BOUND, "gone": "LitGPT"}
    return [
        page.Outcome(names[key], None, "no such wheel")
        if rate is None
        else page.Outcome(names[key], measured(task, rate=rate, losses=losses.get(key, (2.0, 1.5))))
        for key, rate in rates.items()
    ]


def test_made_rows_are_the_same_each_time_and_no_two_alike(bench):
    speed = bench("speed")
    rows = speed.made_rows(48, 5)
    assert rows == speed.made_rows(48, 5) != speed.made_rows(48, 6)
    assert len({row["output"] for row in rows}) == 48
    lengths = [len(row["output"]) for row in rows]
    assert max(lengths) > 4 * min(lengths)


def test_a_file_with_too_few_rows_is_refused(bench, tmp_path):
    speed = bench("speed")
    path = tmp_path / "rows.json"
    path.write_text('[{"instruction": "a", "output": "b"}]', encoding="utf-8")
    assert speed.read_rows(path, 1) == [{"instruction": "a", "input": "", "output": "b"}]
    with pytest.raises(SystemExit, match="has 1 rows; 16 were asked for"):
        speed.read_rows(path, 16)


@pytest.mark.parametrize("rows", ["0", "8", "40"])
def test_rows_that_make_no_whole_steps_are_refused(bench, rows, capsys):
    with pytest.raises(SystemExit):
        bench("speed").asked(["--rows", rows])
    assert "must be a multiple of 16" in capsys.readouterr().err


def test_what_one_process_tells_another_hears(bench, capsys):
    task = bench("peers.task")
    told = measured(task, rate=80)
    print("chatter")
    task.tell(told)
    print("more of it")
    assert task.heard(capsys.readouterr().out) == told
    assert task.heard("chatter only\n") is None


def test_counter_counts_with_and_without_padding(bench):
    counter = bench("peers.task").Counter()
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    counter(None, (), {"input_ids": torch.zeros(2, 3), "attention_mask": mask})
    counter(None, (), {"input_ids": torch.zeros(1, 2), "attention_mask": torch.ones(1, 2)})
    assert (counter.tokens, counter.computed_tokens) == (6, 8)


def turns(bench, *named_rates):
    """One round in which names come again."""
    return [outcome for name, rate in named_rates for outcome in outcomes(bench, {name: rate})]


def test_each_is_compared_with_the_runs_of_ours_beside_it(bench):
    page = bench("speed_page")
    rounds = [
        turns(bench, ("ours", 300), ("same", 100), ("ours", 150), ("bound", 400), ("ours", 150)),
        turns(bench, ("ours", 200), ("same", 50), ("gone", None), ("ours", 100)),
    ]
    # The same tokens at 300 and at 150 a second are 200 a second.
    assert page.ratios(rounds, page.SAME) == pytest.approx([2.0, 4.0])
    assert page.ratios(rounds, page.BOUND) == pytest.approx([0.375])
    assert page.ratios(rounds, "LitGPT") == []
    assert page.spread(page.ratios(rounds, page.SAME)) == "3.00 (2.00 to 4.00)"


def test_ours_runs_before_and_after_each_of_the_others(bench, monkeypatch, capsys):
    speed, page = bench("speed"), bench("speed_page")
    monkeypatch.setattr(
        speed, "compete", lambda contestant, **_: page.Outcome(contestant.name, None, "not really")
    )
    chosen = [each for each in speed.CONTESTANTS if each.name in ("ours", "LitGPT", "TRL, guide")]
    (found,) = speed.rounds_of(chosen, rounds=1, model="", work=Path(), threads=1)
    assert [each.name for each in found] == ["ours", "TRL, guide", "ours", "LitGPT", "ours"]
    assert capsys.readouterr().out.count("not really") == 5


def test_page_says_ratio_tokens_bound_and_who_is_missing(bench):
    page = bench("speed_page")
    told = [("ours", 300), ("bound", 400), ("ours", 300), ("same", 100), ("ours", 300), ("gone", None)]
    rounds = [turns(bench, *told)]
    growth = [page.Point("rows", 2, 256, 0.5), page.Point("rows", 4, 512, 1.25)]
    text = page.page(rounds, growth, rows="16 made rows", threads=2)
    assert "| ours | 1,000 | 1,250 | 3.3 | 300 (300 to 300) |  | 2.0 GB | 1.0 |" in text
    assert "| TRL, same | 1,000 | 1,250 | 10.0 | 100 | 3.00 | 2.0 GB | 1.0 |" in text
    assert "reaches 75 % of that" in text
    assert "| rows in a step | 4 | 512 | 1.25 | 410 | 2.5 |" in text
    assert "Left out: LitGPT: no such wheel" in text
    assert "bfloat16" not in text
    told = [("ours", 300), ("short", 400), ("ours", 300), ("same", 100), ("ours", 300)]
    text = page.page([turns(bench, *told)], [], rows="16 made rows", threads=2)
    assert "With bfloat16 a step's loss differs from ours in float32 by at most 0.0e+00." in text
    assert "| ours, bfloat16 | 1,000 | 1,250 | 2.5 | 400 | 0.75 |  | 2.0 GB | 1.0 |" in text
    assert "| TRL, same | 1,000 | 1,250 | 10.0 | 100 | 3.00 | 4.00 | 2.0 GB | 1.0 |" in text
    assert "| step | ours | TRL, same | ours, bfloat16 |" in text
    assert "| 2 | 1.500000 | 1.500000 | 1.500000 |" in text


def test_largest_gap_between_losses_counts(bench):
    page = bench("speed_page")
    near = outcomes(bench, {"ours": 3, "same": 1}, ours=(2.0, 1.5), same=(2.0002, 1.4995))
    assert page.loss_gap(near) == pytest.approx(0.0005)
    assert page.loss_gap(outcomes(bench, {"ours": 3, "gone": None})) is None
    far = outcomes(bench, {"ours": 3, "short": 5}, ours=(2.0, 1.5), short=(2.003, 1.499))
    assert page.loss_gap(far) is None
    assert page.loss_gap(far, name=page.SHORT) == pytest.approx(0.003)
    with pytest.raises(ValueError, match="shorter"):
        page.loss_gap(outcomes(bench, {"ours": 3, "same": 1}, same=(2.0,)))


def test_a_failing_child_is_told_without_paths(bench, tmp_path):
    speed = bench("speed")
    (tmp_path / "fails.py").write_text("raise OSError('no file /some/where/deep/model.bin')")
    (tmp_path / "speaks.py").write_text("print('fine')")
    run = partial(speed.run, Path(sys.executable), arguments=[], work=tmp_path, threads=1)
    with pytest.raises(RuntimeError, match=r"^OSError: no file model\.bin$"):
        run("fails")
    assert run("speaks") == "fine\n"


def test_bound_computes_the_products_it_says(bench):
    bound = bench("speed_bound")
    torch.manual_seed(0)
    weight, x = torch.randn(4, 3), torch.randn(5, 3)
    for name, library in bound.LIBRARIES.items():
        found = []

        def multiply(x_TI, weight_OI, y_TO, library=library, found=found):
            found.append(library(x_TI, weight_OI, y_TO).clone())
            return found[-1]

        shapes = {("input", 3): 3, ("output", 4): 4, ("gradient", 3): 3}
        buffers = {key: torch.zeros(5, width) for key, width in shapes.items()} | {("input", 3): x}
        bound.products(multiply, weight, buffers, 2)
        torch.testing.assert_close(found, [x[:2] @ weight.T, x[:2] @ weight.T @ weight], msg=name)
        assert not buffers["output", 4][2:].any() and not buffers["gradient", 3][2:].any()

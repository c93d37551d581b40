import numpy as np
import pytest
from scipy.stats import binomtest

from tunesmith.errors import DataError, RunFailed
from tunesmith.evaluation.metrics import exact_match_metric, loss_metric, metrics_for, perplexity_metric
from tunesmith.evaluation.significance import (
    compare,
    evaluate,
    mcnemar_p_value,
    paired_bootstrap_p_value,
    score,
)

TEXTS = [f"answer number {row} is {row * row} items in box {row % 3}" for row in range(40)]
GOOD = [text if row % 4 else text.replace("items", "things") for row, text in enumerate(TEXTS)]
POOR = [text[: 8 + row % 9] for row, text in enumerate(TEXTS)]
REFERENCES = [[text] for text in TEXTS]
# Not those that these answers cannot tell apart, such as repetition.
METRICS = [metric for metric in metrics_for(REFERENCES) if metric.higher_is_better]
ROUGE = next(metric for metric in METRICS if metric.name == "rougeL")


def hits(values) -> np.ndarray:
    """Rows of exact match: hit or miss beside the count."""
    values = np.asarray(values, dtype=np.float64)
    return np.column_stack([values, np.ones_like(values)])


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_system_against_itself_differs_in_nothing(metric):
    rows = metric.statistics(GOOD, REFERENCES)
    result = compare(metric, rows, rows.copy(), seed=17, resamples=200)
    assert (result.difference, result.low, result.high, result.p_value) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_clearly_better_system_is_found(metric):
    poor, good = metric.statistics(POOR, REFERENCES), metric.statistics(GOOD, REFERENCES)
    result = compare(metric, poor, good, seed=17)
    assert result.difference > 0
    assert result.low > 0
    assert result.p_value < 0.01
    turned = compare(metric, good, poor, seed=17)
    assert turned.difference == pytest.approx(-result.difference)
    assert (turned.low, turned.high) == pytest.approx((-result.high, -result.low))
    assert turned.p_value == pytest.approx(result.p_value, abs=1e-3)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_the_interval_holds_the_value(metric):
    rows = metric.statistics(GOOD, REFERENCES)
    result = score(metric, rows, seed=17)
    assert result.low < result.value < result.high
    assert result.value == pytest.approx(float(metric.from_sums(rows.sum(axis=0))))
    narrower = score(metric, rows, seed=17, confidence=0.8)
    assert result.low < narrower.low < narrower.high < result.high


def test_the_same_seed_gives_the_same_numbers_and_another_does_not():
    metric = METRICS[0]
    base, tuned = metric.statistics(POOR, REFERENCES), metric.statistics(GOOD, REFERENCES)
    first = evaluate([(metric, base, tuned)], seed=5, resamples=200)
    assert first == evaluate([(metric, base, tuned)], seed=5, resamples=200)
    assert first.tuned[0].low != score(metric, tuned, seed=6, resamples=200).low


def test_all_metrics_of_one_evaluation_share_the_resamples():
    losses = np.column_stack([np.arange(1.0, 31.0), np.full(30, 10.0)])
    result = evaluate(
        [(metric, losses, losses * [0.9, 1.0]) for metric in (loss_metric(), perplexity_metric())], seed=17
    )
    loss, perplexity = result.base
    # The interval of 1000 draws falls between two of them, where exp is not linear.
    assert (perplexity.low, perplexity.high) == pytest.approx(np.exp([loss.low, loss.high]), rel=1e-4)


def test_a_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    # 95 percent intervals of the mean of 100 rows in 1,000 worlds, for one system and of a difference.
    worlds = np.random.default_rng(2).beta([[2.0], [3.0]], 2.0, size=(1000, 2, 100))
    truth, better = 100 * 2 / 4, 100 * 3 / 5
    alone, apart = [], []
    for seed, (base, tuned) in enumerate(worlds):
        found = score(ROUGE, hits(base), seed=seed, resamples=300)
        alone.append(found.low <= truth <= found.high)
        change = compare(ROUGE, hits(base), hits(tuned), seed=seed, resamples=300)
        apart.append(change.low <= better - truth <= change.high)
    assert 0.93 <= np.mean(alone) <= 0.97
    assert 0.93 <= np.mean(apart) <= 0.97


def test_p_values_are_no_smaller_than_chance_allows_where_nothing_differs():
    # Under the null at most a share a of p-values is below a; 0.09 is 0.05 and three standard errors.
    generator = np.random.default_rng(4)
    pairs = generator.random((300, 2, 60)) < 0.5
    for metric in (exact_match_metric(), ROUGE):
        values = [
            compare(metric, hits(base), hits(tuned), seed=seed, resamples=200).p_value
            for seed, (base, tuned) in enumerate(pairs)
        ]
        assert np.mean(np.array(values) <= 0.05) < 0.09


def test_the_p_value_is_that_of_all_swaps():
    # 6 rows won, none lost: 2 of the 64 ways to swap give a difference as large, so p is near 1/32.
    result = compare(ROUGE, hits(np.zeros(6)), hits(np.ones(6)), seed=17, resamples=20_000)
    assert result.difference == 100
    assert result.p_value == pytest.approx(1 / 32, abs=0.005)


def test_of_hits_and_misses_the_p_value_is_exact():
    result = compare(exact_match_metric(), hits(np.zeros(6)), hits(np.ones(6)), seed=17, resamples=100)
    assert result.p_value == 1 / 32
    assert "|mcnemar:exact|bootstrap:100|" in result.signature


@pytest.mark.parametrize(
    ("won", "lost"), [(0, 0), (1, 0), (6, 0), (5, 5), (9, 3), (3, 9), (40, 61), (800, 700)]
)
def test_mcnemar_is_the_binomial_test_of_the_rows_that_differ(won, lost):
    base = np.array([0] * won + [1] * lost + [1, 0, 1])
    tuned = np.array([1] * won + [0] * lost + [1, 0, 1])
    expected = binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert mcnemar_p_value(base, tuned) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_p_value(tuned, base) == mcnemar_p_value(base, tuned)


def test_mcnemar_and_randomization_agree_on_hits_and_misses():
    base, tuned = np.random.default_rng(1).random((2, 60)) < [[0.5], [0.7]]
    randomized = compare(ROUGE, hits(base), hits(tuned), seed=17, resamples=20_000)
    exact = compare(exact_match_metric(), hits(base), hits(tuned), seed=17)
    assert 0.001 < exact.p_value < 0.5
    assert randomized.p_value == pytest.approx(exact.p_value, abs=0.012)


def test_mcnemar_of_many_rows_stays_finite():
    assert mcnemar_p_value(np.zeros(20_000), np.ones(20_000)) == 0.0
    assert 0.9 < mcnemar_p_value(np.arange(20_001) % 2, (np.arange(20_001) + 1) % 2) <= 1.0


def test_paired_bootstrap_of_a_system_against_itself_is_1_less_the_strict_inequality():
    # sacrebleu counts differences above the observed one; none is, so the p-value is as small as it gets.
    rows = ROUGE.statistics(GOOD, REFERENCES)
    assert paired_bootstrap_p_value(ROUGE, rows, rows, seed=1, resamples=99) == 0.01


def test_paired_bootstrap_finds_what_is_clear_and_not_what_is_chance():
    clear = paired_bootstrap_p_value(
        ROUGE, ROUGE.statistics(POOR, REFERENCES), ROUGE.statistics(GOOD, REFERENCES), seed=1
    )
    assert clear < 0.01
    noise = np.random.default_rng(3).random((2, 80))
    assert paired_bootstrap_p_value(ROUGE, hits(noise[0]), hits(noise[1]), seed=1) > 0.05


def test_equal_differences_count_as_equal_despite_rounding():
    # Of 4 ways to swap 2 rows, none and both give the same size of difference, rounded differently.
    base, tuned = [0.1, 0.1], [0.2, 0.4]
    result = compare(ROUGE, hits(base), hits(tuned), seed=17, resamples=4000)
    assert result.p_value == pytest.approx(0.5, abs=0.03)


def test_the_p_value_is_never_zero():
    # Not one of 99 random swaps of 40 rows won is as large as the difference seen.
    result = compare(ROUGE, hits(np.zeros(40)), hits(np.ones(40)), seed=17, resamples=99)
    assert result.p_value == 0.01


def test_one_row_has_a_value_and_no_interval():
    metric = exact_match_metric()
    alone = score(metric, hits([1]), seed=17)
    assert (alone.value, alone.low, alone.high, alone.n) == (100.0, None, None, 1)
    result = compare(metric, hits([0]), hits([1]), seed=17)
    assert (result.difference, result.low, result.high, result.p_value) == (100.0, None, None, None)


def test_signatures_hold_the_whole_recipe():
    metric = METRICS[1]
    rows = metric.statistics(GOOD, REFERENCES)
    result = score(metric, rows, seed=17)
    assert result.signature == f"{metric.signature}|bootstrap:1000|confidence:0.95|seed:17"
    compared = compare(metric, rows, rows, seed=3, resamples=250, confidence=0.9)
    assert compared.signature == f"{metric.signature}|randomization:250|bootstrap:250|confidence:0.9|seed:3"


def test_an_evaluation_keeps_the_order_and_facts_of_its_metrics():
    rows = [(m, m.statistics(POOR, REFERENCES), m.statistics(GOOD, REFERENCES)) for m in METRICS]
    result = evaluate(rows, seed=17, resamples=200)
    names = [metric.name for metric in METRICS]
    for part in (result.base, result.tuned, result.comparisons):
        assert [each.metric for each in part] == names
        assert {each.n for each in part} == {len(TEXTS)}
    for base, tuned, comparison in zip(result.base, result.tuned, result.comparisons, strict=True):
        assert comparison.difference == pytest.approx(tuned.value - base.value)
        assert (base.unit, base.higher_is_better) == ("percent", True)


def test_many_rows_fit_in_blocks_and_change_nothing():
    # 10,001 rows need several blocks of draws; the interval is that of the normal approximation.
    values = (np.arange(10_001) % 4 != 0).astype(float)
    result = score(exact_match_metric(), hits(values), seed=17)
    expected = 100 * 1.96 * np.sqrt(0.75 * 0.25 / len(values))
    assert result.high - result.value == pytest.approx(expected, rel=0.15)
    assert result.value - result.low == pytest.approx(expected, rel=0.15)


def test_no_rows_are_refused():
    metric = exact_match_metric()
    with pytest.raises(DataError, match="metric `exact_match` has 0 rows to score") as caught:
        score(metric, metric.statistics([], []), seed=17)
    assert "test file" in caught.value.hint


def test_other_rows_are_refused():
    with pytest.raises(DataError, match=r"shape \(2, 2\) for the base and \(3, 2\)") as caught:
        compare(exact_match_metric(), hits([0, 1]), hits([0, 1, 1]), seed=17)
    assert "same order" in caught.value.hint


@pytest.mark.parametrize("bad", [[np.nan, 5.0], [np.inf, 5.0], [0.0, 0.0]])
def test_a_loss_that_is_not_finite_is_refused(bad):
    rows = np.array([bad, bad])
    with pytest.raises(RunFailed, match=r"metric `loss` is not finite on 2 rows: (nan|inf)") as caught:
        score(loss_metric(), rows, seed=17)
    assert "float32" in caught.value.hint
    with pytest.raises(RunFailed, match="not finite on 2 rows"):
        compare(loss_metric(), rows, np.array([[1.0, 1.0], [1.0, 1.0]]), seed=17)


def test_a_resample_that_scores_no_token_is_refused():
    # One of two rows scores no token; a quarter of the resamples draw only that one.
    rows = np.array([[0.0, 0.0], [2.0, 4.0]])
    with pytest.raises(RunFailed, match="metric `loss` is not finite on 2 rows: nan, nan"):
        score(loss_metric(), rows, seed=17)

"""The forecast holds what it says where the truth is known, and the runs behind it are what they claim."""

import json

import numpy as np
import pytest

from tiny import tiny_model_folder
from tiny_run import Told
from tunesmith.approaches.learning_curve import half_text, learning_curve
from tunesmith.approaches.learning_curve_fit import basis, fit
from tunesmith.errors import ConfigError, DataError, RunFolderError
from tunesmith.evaluation.forecast_picture import draw_learning_curve
from tunesmith.resolve import resolve
from tunesmith.runs import open_run

ROWS = (20, 40, 80, 160)


def statistics(losses, *, seed=0, rows=48, scatter=0.1):
    """Per size nats and tokens of held-out rows whose loss is exactly as given; hard rows stay hard."""
    random = np.random.default_rng(seed)
    tokens = random.integers(10, 60, rows).astype(float)
    hard = np.exp(random.normal(0, 0.4, rows))
    found = []
    for loss in losses:
        nats = tokens * hard * np.exp(random.normal(0, scatter, rows))
        found.append(np.column_stack([nats * loss * tokens.sum() / nats.sum(), tokens]))
    return found


def law(rows, *, a, b, c):
    return a + b * (np.array(rows) / ROWS[0]) ** -c


def test_the_basis_is_one_family_with_the_logarithm_between():
    times, power = np.array([0.5, 1.0, 2.0]), np.zeros(3)
    assert basis(times, power) == pytest.approx(-np.log(times))
    assert basis(times, power + 1e-6) == pytest.approx(-np.log(times), abs=1e-5)
    assert basis(times, power + 1.0) == pytest.approx(1 / times - 1)


@pytest.mark.parametrize(("a", "b", "c"), [(0.5, 1.0, 0.7), (0.0, 1.5, 0.3), (1.0, 0.5, 1.2)])
def test_an_exact_power_law_is_continued(a, b, c):
    forecast = fit(ROWS, statistics(law(ROWS, a=a, b=b, c=c)), seed=1).forecast(320, seed=1)
    truth = float(law([320], a=a, b=b, c=c)[0])
    gain = float(law([160], a=a, b=b, c=c)[0]) - truth
    assert forecast.loss == pytest.approx(truth, rel=0.08)
    assert forecast.low < truth < forecast.high
    assert forecast.gain_low < gain < forecast.gain_high
    assert (forecast.rows, forecast.confidence) == (320, 0.95)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    random = np.random.default_rng(5)
    held = gains = 0
    for trial in range(60):
        a, b, c = random.uniform(0, 1), random.uniform(0.3, 2), random.uniform(0.05, 1)
        losses = law((*ROWS, 320), a=a, b=b, c=c) * (1 + random.normal(0, 0.02, 5))
        rows = statistics(losses, seed=trial)
        forecast = fit(ROWS, rows[:4], seed=trial, draws=800).forecast(320, seed=trial)
        held += forecast.low <= losses[4] <= forecast.high
        gains += forecast.gain_low <= losses[3] - losses[4] <= forecast.gain_high
    assert held >= 56
    assert gains >= 55


def test_a_flat_curve_promises_nothing_and_scatter_widens():
    flat = fit(ROWS, statistics([1.0, 1.0, 1.0, 1.0]), seed=1)
    forecast = flat.forecast(320, seed=1)
    assert forecast.gain_low < 0 < forecast.gain_high
    assert abs(forecast.gain) < 0.03
    smooth = fit(ROWS, statistics([2.0, 1.6, 1.3, 1.1]), seed=1).forecast(320, seed=1)
    rough = fit(ROWS, statistics([2.0, 1.3, 1.6, 1.1]), seed=1).forecast(320, seed=1)
    assert rough.gain_high - rough.gain_low > 2 * (smooth.gain_high - smooth.gain_low)


def test_a_curve_that_ends_soon_needs_fewer_rows_to_half_than_one_that_ends_late():
    soon = fit(ROWS, statistics(law(ROWS, a=1.0, b=1.0, c=1.4)), seed=1).rows_to_half()
    late = fit(ROWS, statistics(law(ROWS, a=0.0, b=1.0, c=0.15)), seed=1).rows_to_half()
    assert 160 < soon[1] <= soon[0] <= soon[2]
    # By the law itself 262 rows and 16,000; four sizes cannot tell the second from farther still.
    assert soon[0] == pytest.approx(262, rel=0.1)
    assert soon[2] < late[0] < late[2]
    assert late[2] == np.inf


def test_a_loss_is_never_below_nothing_and_the_same_seed_gives_the_same():
    rows = statistics([1.0, 0.4, 0.1, 0.01])
    one, same = (fit(ROWS, rows, seed=1).forecast(320, seed=1) for _ in range(2))
    assert one == same
    assert 0 <= one.low <= one.loss <= one.high
    assert fit(ROWS, rows, seed=2).forecast(320, seed=1) != one


def test_the_picture_is_the_same_for_the_same_numbers_and_names_its_axes():
    points, band = (
        [(20.0, 1.0, 0.9, 1.1), (40.0, 0.8, None, None)],
        [(20.0, 1.0, 0.9, 1.1), (80.0, 0.7, 0.5, 0.9)],
    )
    drawn = draw_learning_curve(points, band, (80.0, 0.7, 0.5, 0.9))
    assert drawn == draw_learning_curve(points, band, (80.0, 0.7, 0.5, 0.9))
    assert all(f">{text}<" in drawn for text in ("training rows", "held-out loss, nats/token", "20", "80"))


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curve")
    rows = [{"question": f"Colour {at}", "answer": ("red", "green")[at % 2]} for at in range(80)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "model": str(tiny_model_folder(folder / "model")),
        "data": str(folder / "rows.jsonl"),
        "columns": {"instruction": "question", "output": "answer"},
        "validation-size": 8,
        "test-size": 32,
        "num-train-epochs": 1,
        "gradient-accumulation-steps": 1,
        "learning-rate": 1e-2,
        "bootstrap-resamples": 100,
        "device": "cpu",
    }


def test_sizes_are_nested_runs_on_the_same_held_out_rows_and_are_kept(flags, tmp_path):
    resolved, told = resolve(None, flags), Told()
    found = learning_curve(resolved, tmp_path / "curve", progress=told)
    assert [(size.rows, size.steps) for size in found.sizes] == [(5, 2), (10, 3), (20, 5), (40, 10)]
    subsets = [
        set((found.folder / "rows" / f"train-{size.rows:06d}.jsonl").read_text().splitlines())
        for size in found.sizes
    ]
    assert [len(rows) for rows in subsets] == [5, 10, 20, 40]
    assert subsets[0] < subsets[1] < subsets[2] < subsets[3]
    for size in found.sizes:
        config = resolve(open_run(size.run).config).config
        assert (config.training.num_train_epochs, config.data.test_size) == (1, 0)
        assert config.data.validation_file == str(found.folder / "rows" / "validation.jsonl")
        assert size.loss.n == 32
        assert size.statistics.shape == (32, 2)
    assert len({tuple(size.statistics[:, 1]) for size in found.sizes}) == 1
    written = json.loads((found.folder / "learning-curve.json").read_text())
    assert written == json.loads(json.dumps(found.as_dict()))
    assert written["twice_the_rows"]["rows"] == 80
    assert found.picture.read_text().startswith("<?xml")
    assert "Epochs were equal, so fewer rows also had fewer steps: 2 to 10 steps." in found.sentences
    assert "4/4: 40 training rows" in told.lines
    again = Told()
    assert learning_curve(resolved, tmp_path / "curve", progress=again).as_dict() == found.as_dict()
    assert sum("was finished before, kept" in line for line in again.lines) == 4
    other = resolve(None, flags | {"seed": 5})
    with pytest.raises(RunFolderError, match="holds other rows than"):
        learning_curve(other, tmp_path / "curve")


@pytest.mark.parametrize(
    ("changes", "error", "says", "hint"),
    [
        ({"max-steps": 3}, ConfigError, "`max_steps` is 3, and would give few rows as many", "equal epochs"),
        ({"validation-size": 20}, DataError, "28 training rows of .* are too few", "hold fewer out"),
        ({"test-size": 29}, DataError, "29 held-out rows are too few to tell sizes apart", "--test-size 30"),
    ],
)
def test_what_cannot_make_a_curve_is_refused_before_training(flags, tmp_path, changes, error, says, hint):
    with pytest.raises(error, match=says) as refused:
        learning_curve(resolve(None, flags | changes), tmp_path / "curve")
    assert hint in refused.value.hint
    assert not list((tmp_path / "curve").glob("rows-*"))


def test_a_folder_with_other_files_is_refused(flags, tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunFolderError, match="holds files already"):
        learning_curve(resolve(None, flags), tmp_path)


def test_how_many_rows_half_of_the_gain_takes_is_said_or_left_open():
    assert half_text(np.inf, 300.0, np.inf).endswith("so how many rows half of the gain takes is open.")
    assert half_text(5_000.0, 300.0, np.inf) == (
        "To reach half of the remaining gain you need about 5,000 rows [300, open]."
    )

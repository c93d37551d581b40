"""The whole comparison with a tiny random model: who answers, what is kept, what is refused."""

import json
from dataclasses import replace

import pytest
from cyclopts import App

from tiny import tiny_model_folder
from tiny_run import Told
from tunesmith.approaches.compare import compare
from tunesmith.approaches.settings import APPROACHES, CompareSettings, Prices
from tunesmith.cli.compare import compare as compare_command
from tunesmith.errors import DataError, Interrupted, RunFailed, RunFolderError
from tunesmith.evaluation.outputs import read_outputs
from tunesmith.models.generate import Decoding
from tunesmith.pipeline import finetune
from tunesmith.resolve import resolve
from tunesmith.runs import open_run
from tunesmith.use import answer, open_session

COLOURS = ("red", "green", "blue", "black")
PROMPTED = ("zero-shot", "few-shot", "rag")
SETTINGS = CompareSettings(
    shots=2, passages=2, prices=Prices(prompt=1.0, answer=2.0, hour=3.0, currency="EUR")
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Flags that all comparisons share; two held-out prompts have two references."""
    folder = tmp_path_factory.mktemp("shared")
    rows = [{"instruction": f"Paint {at} {COLOURS[at % 4]}", "output": COLOURS[at % 4]} for at in range(24)]
    held = [
        {"instruction": f"Paint {at} {COLOURS[at % 4]}", "output": COLOURS[at % 4]} for at in range(30, 36)
    ]
    held[3]["instruction"] += "\u2028for me"  # ends a line in some eyes
    held += [{"instruction": row["instruction"], "output": "pink"} for row in held[:2]]
    for name, those in (("rows", rows), ("test", held)):
        lines = "".join(json.dumps(row) + "\n" for row in those)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return {
        "model": str(tiny_model_folder(folder / "model")),
        "data": str(folder / "rows.jsonl"),
        "test-file": str(folder / "test.jsonl"),
        "validation-size": "0",
        "gradient-accumulation-steps": "1",
        "max-steps": "4",
        "learning-rate": "1e-2",
        "max-new-tokens": "6",
        "bootstrap-resamples": "100",
        "device": "cpu",
    }


@pytest.fixture(scope="module")
def compared(shared, tmp_path_factory):
    """One comparison of all five, and the progress it told."""
    told = Told()
    folder = tmp_path_factory.mktemp("out") / "all"
    return compare(resolve(None, shared), SETTINGS, folder=folder, progress=told), told.lines


def asked(compared):
    return [json.loads(line) for line in (compared.folder / "answers.jsonl").read_text().split("\n") if line]


def prompted(shared, folder, progress=None, flags=(), **settings):
    """A comparison without training."""
    chosen = replace(SETTINGS, **{"approaches": PROMPTED} | settings)
    return compare(resolve(None, shared | dict(flags)), chosen, folder=folder, progress=progress)


def test_every_approach_answers_the_same_inputs(compared):
    found, _ = compared
    assert found.findings.names == APPROACHES
    assert found.findings.inputs == 6
    rows = asked(found)
    assert [len(row["references"]) for row in rows] == [2, 2, 1, 1, 1, 1]
    assert all(tuple(row["answers"]) == APPROACHES for row in rows)
    assert all(score.n == 6 for result in found.findings.results for score in result.scores)


def test_the_base_answers_as_the_base_and_the_tuned_as_the_tuned(compared, shared):
    rows = asked(compared[0])
    from tunesmith.data.conversation import Message

    prompts = [[Message("user", row["prompt"])] for row in rows]
    for name, model in (("zero-shot", shared["model"]), ("fine-tuned", str(compared[0].folder / "run"))):
        answers = answer(open_session(model, device="cpu"), prompts, decoding=Decoding(max_new_tokens=6))
        assert answers == [row["answers"][name] for row in rows]
    assert any(row["answers"]["zero-shot"] != row["answers"]["fine-tuned"] for row in rows)


def test_other_tools_read_the_folder(compared):
    items = read_outputs([compared[0].folder])
    assert [item.id for item in items] == [row["id"] for row in asked(compared[0])]
    assert tuple(items[0].answers) == APPROACHES
    alone = read_outputs([compared[0].folder / "answers" / "rag.jsonl"])
    assert {item.answers["rag"] for item in alone} == {row["answers"]["rag"] for row in asked(compared[0])}


def test_costs_are_counted(compared):
    results = {result.name: result for result in compared[0].findings.results}
    costs = {name: result.costs for name, result in results.items()}
    assert costs["zero-shot"].prompt_tokens == costs["fine-tuned"].prompt_tokens < costs["rag"].prompt_tokens
    assert 0 < costs["few-shot"].shared_share < 1
    assert all(each.seconds > 0 and each.peak_memory_bytes > 1e8 for each in costs.values())
    assert costs["zero-shot"].training is None
    manifest = open_run(compared[0].folder / "run").manifest
    assert costs["fine-tuned"].training.tokens == manifest["training"]["tokens"] > 0
    priced = costs["rag"]
    price = (priced.prompt_tokens + 2 * priced.answer_tokens) / 6e6
    assert results["rag"].price == pytest.approx(price)
    sources = (compared[0].folder / "answers" / "rag.jsonl").read_text().strip().split("\n")
    assert all(len(json.loads(line)["sources"]) == 2 for line in sources)


def test_numbers_and_page_say_the_same(compared):
    found, _ = compared
    record = json.loads((found.folder / "compare.json").read_text())
    assert record["verdict"]["sentences"] == list(found.verdict.sentences)
    assert [each["name"] for each in record["approaches"]] == list(APPROACHES)
    page = found.page.read_text()
    assert "Too few held-out inputs for a verdict: 6" in page
    assert "1,000\nrequests" in page and "EUR" in page and "fine-tuned+rag" in page
    assert record["seed"] == 17 and record["decoding"]["max_new_tokens"] == 6


def test_the_same_command_again_computes_nothing(compared, shared):
    found, _ = compared
    before = {
        path: path.read_bytes()
        for path in [*found.folder.glob("answers/*"), *found.folder.glob("*.json*"), found.page]
    }
    told = Told()
    again = compare(resolve(None, shared), SETTINGS, folder=found.folder, progress=told)
    assert {path: path.read_bytes() for path in before} == before
    assert sum("answered before, kept" in line for line in told.lines) == 5
    assert any("was finished before, kept" in line for line in told.lines)
    assert not any("answering in" in line for line in told.lines)
    assert again.findings == found.findings


def test_other_settings_are_refused_by_name(compared, shared):
    found, _ = compared
    resolved = resolve(None, shared)
    with pytest.raises(RunFolderError, match=r"few-shot.jsonl` holds answers made with another prompts"):
        compare(resolved, replace(SETTINGS, shots=1), folder=found.folder)
    with pytest.raises(RunFolderError, match=r"was trained with another training\.max_steps"):
        compare(resolve(None, shared | {"max-steps": "5"}), SETTINGS, folder=found.folder)
    with pytest.raises(RunFolderError, match="holds answers made with another max_new_tokens"):
        compare(resolve(None, shared | {"max-new-tokens": "5"}), SETTINGS, folder=found.folder)


def test_a_finished_run_is_taken_where_it_held_out_the_same_rows(compared, shared, tmp_path):
    run = compared[0].folder / "run"
    tuned = replace(SETTINGS, approaches=("fine-tuned",), run=run)
    found = compare(resolve(None, shared), tuned, folder=tmp_path / "given")
    assert [row["answers"]["fine-tuned"] for row in asked(found)] == [
        row["answers"]["fine-tuned"] for row in asked(compared[0])
    ]
    assert not (found.folder / "run").exists()
    with pytest.raises(
        RunFolderError, match=r"did not hold out the rows(?s:.*)training.seed: 17 then, 4 now"
    ):
        compare(resolve(None, shared | {"seed": "4"}), tuned, folder=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_whole_tuned_model_is_asked_beside_its_base(compared, shared, tmp_path):
    """No adapter can be switched off there: the base's weights are put in for the time."""
    run = tmp_path / "full"
    flags = shared | {"method": "full"}
    finetune(resolve(None, flags | {"generate-rows": "0", "output-dir": str(run)}))
    chosen = replace(SETTINGS, approaches=("fine-tuned", "zero-shot"), run=run)
    rows = asked(compare(resolve(None, flags), chosen, folder=tmp_path / "out"))
    before = [row["answers"]["zero-shot"] for row in asked(compared[0])]
    assert [row["answers"]["zero-shot"] for row in rows] == before
    assert [row["answers"]["fine-tuned"] for row in rows] != before


def test_an_unfinished_run_is_no_model(compared, shared, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.yaml", "manifest.json"):
        (run / name).write_bytes((compared[0].folder / "run" / name).read_bytes())
    open_run(run).update_manifest(status="failed")
    with pytest.raises(RunFolderError, match="is failed, so there is no model to compare"):
        compare(resolve(None, shared), replace(SETTINGS, run=run), folder=tmp_path / "out")


class Stop(Told):
    """Ctrl-C while the second approach answers."""

    def begin(self, label, total):
        self.lines.append(label)

    def advance(self, amount=1, figures=""):
        if amount and self.lines[-1] == "answering few-shot":
            raise KeyboardInterrupt


def test_a_stop_keeps_what_was_answered(shared, tmp_path):
    folder = tmp_path / "stopped"
    with pytest.raises(Interrupted, match="the comparison was stopped; its run and answers so far are in"):
        prompted(shared, folder, Stop())
    kept = (folder / "answers" / "zero-shot.jsonl").read_bytes()
    assert not (folder / "compare.json").exists()
    told = Told()
    assert prompted(shared, folder, told).findings.names == PROMPTED
    assert (folder / "answers" / "zero-shot.jsonl").read_bytes() == kept
    assert [line for line in told.lines if "kept" in line] == ["zero-shot: answered before, kept"]


def test_pieces_that_were_written_are_kept(shared, tmp_path):
    """With one row in a batch a piece has two requests; a file cut to its first piece goes on behind it."""
    one = {"per-device-eval-batch-size": "1"}
    whole = prompted(shared, tmp_path / "out", flags=one, approaches=("zero-shot",))
    file = whole.folder / "answers" / "zero-shot.jsonl"
    lines = file.read_text().strip().split("\n")
    file.write_text("\n".join(lines[:2]) + "\n", encoding="utf-8")
    again = prompted(shared, whole.folder, flags=one, approaches=("zero-shot",))
    assert set(lines[:2]) <= set(file.read_text().split("\n"))
    assert asked(again) == asked(whole)


def test_an_approach_that_cannot_be_is_left_out_and_named(shared, tmp_path):
    long = tmp_path / "long.jsonl"
    rows = [{"instruction": f"{at} " + "la " * 110, "output": COLOURS[at % 4]} for at in range(24)]
    long.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = prompted(shared, tmp_path / "out", flags={"data": str(long)}, shots=4)
    few = found.findings.result("few-shot")
    assert few.left_out == 6 * 3
    assert any(note.startswith("few-shot: 18 examples or passages were left out") for note in found.notes)
    huge = tmp_path / "huge.jsonl"
    rows = [row | {"instruction": row["instruction"] + "la " * 60} for row in rows]
    huge.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = prompted(shared, tmp_path / "huge", flags={"data": str(huge)})
    assert "few-shot" not in found.findings.names
    assert found.findings.impossible["few-shot"].startswith("not one example fits beside any question")
    with pytest.raises(RunFailed, match=r"no approach is possible\. few-shot: not one example fits"):
        prompted(shared, tmp_path / "none", flags={"data": str(huge)}, approaches=("few-shot",))


def test_nothing_to_ask_is_told_before_anything_is_written(shared, tmp_path):
    with pytest.raises(DataError, match="`generate_rows` is 0, so there is nothing to compare on"):
        prompted(shared, tmp_path / "out", flags={"generate-rows": "0"})
    without = {name: value for name, value in shared.items() if name != "test-file"}
    with pytest.raises(DataError, match="no row is held out, so there is nothing to compare on"):
        prompted(without, tmp_path / "out", flags={"test-size": "0"})
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(shared, tmp_path):
    (tmp_path / "letter.txt").write_text("Dear reader", encoding="utf-8")
    with pytest.raises(RunFolderError, match="holds files already"):
        prompted(shared, tmp_path)


def test_broken_settings_of_answers_are_named(shared, tmp_path):
    found = prompted(shared, tmp_path / "out", approaches=("zero-shot",))
    (found.folder / "answers" / "settings.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"settings.json` is no JSON"):
        prompted(shared, found.folder, approaches=("zero-shot",))


def test_fewer_inputs_are_asked_where_wanted_and_said(shared, tmp_path):
    found = prompted(shared, tmp_path / "out", flags={"generate-rows": "4"}, approaches=("zero-shot",))
    assert found.findings.inputs == 4
    assert found.notes == ("4 of 6 held-out inputs were asked; `--generate-rows 6` asks all",)


def run_command(*words):
    app = App()
    app.command(compare_command)
    app(["compare", *words], exit_on_error=False, print_error=False, result_action="return_value")


def test_the_command_prints_table_and_verdict(compared, capsys):
    folder = compared[0].folder
    flags = (
        "--shots",
        "2",
        "--passages",
        "2",
        "--price-prompt",
        "1",
        "--price-answer",
        "2",
        "--price-hour",
        "3",
    )
    config = ("--output-dir", str(folder), "--currency", "EUR")
    run_command(str(folder / "run.yaml"), *flags, *config, "--generate-rows", "32")
    out = capsys.readouterr().out
    assert all(name in out for name in APPROACHES)
    assert "Exact match" in out and "Best on" in out
    assert "…" not in out  # nothing is cut off where a terminal has 80 columns
    assert f"page:     {folder / 'compare.html'}" in out


def test_the_command_prints_one_object_for_machines(compared, tmp_path, capsys):
    run = compared[0].folder / "run"
    flags = (
        "--approaches",
        "zero-shot,fine-tuned",
        "--generate-rows",
        "5",
        "--output-dir",
        str(tmp_path / "out"),
    )
    run_command("--run", str(run), *flags, "--json")
    printed = json.loads(capsys.readouterr().out)
    assert printed["folder"] == str(tmp_path / "out")
    assert [each["name"] for each in printed["approaches"]] == ["zero-shot", "fine-tuned"]
    assert printed["inputs"] == 5 and printed["verdict"]["is_tuning_worth_it"] is None

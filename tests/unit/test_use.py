"""Use by name: base beside tuned for all methods, held-out rows of a run, several adapters in their form."""

import hashlib
import json
import re

import pytest
import torch

from tiny import tiny_model, tiny_model_folder, tiny_tokenizer
from tunesmith.config import DataConfig, EvaluationConfig, MethodConfig
from tunesmith.data.conversation import Message
from tunesmith.data.render import Renderer, choose_template
from tunesmith.errors import ModelError
from tunesmith.evaluation.elsewhere_rows import general_rows
from tunesmith.methods import adapter, full, lora, prefix
from tunesmith.models.adapter import save_adapter, save_whole
from tunesmith.models.generate import Decoding
from tunesmith.training.loss import held_out_losses, mean_loss
from tunesmith.use import (
    adapter_name,
    answer,
    answer_requests,
    evaluate_elsewhere,
    evaluate_session,
    held_out_rows,
    merge,
    open_session,
    open_switchboard,
)

SHORT = Decoding(max_new_tokens=6)
QUICK = EvaluationConfig(generate_rows=3, max_new_tokens=5, bootstrap_resamples=100)
BARE = "{% for message in messages %}{{ message.role }}: {{ message.content }}<|endoftext|>{% endfor %}"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    lines = [{"instruction": f"Say the number {n}", "output": f"It is {n}."} for n in range(30)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def moved(model, *, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight), alpha=0.1)
    return model.eval()


def lora_run(base, path, *, seed=0, system=None, chat_template=None):
    model = moved(lora.prepare(tiny_model(), MethodConfig(rank=4)), seed=seed)
    tokenizer = tiny_tokenizer(chat_template=chat_template) if chat_template else tiny_tokenizer()
    note = {"base_model": str(base), "system": system, "method": "lora", "four_bit": False}
    path.mkdir(parents=True, exist_ok=True)
    (path / "manifest.json").write_text("{}")
    save_adapter(model, path / "adapter", tokenizer=tokenizer, note=note)
    return path


def tuned_folder(base, path, name):
    """A folder as training by the method leaves it."""
    note = {"base_model": str(base), "method": name, "four_bit": False}
    if name == "full":
        model = moved(full.prepare(tiny_model(), MethodConfig(name="full")))
        save_whole(model, path, tokenizer=tiny_tokenizer(), note=note)
    else:
        model = {"lora": lora, "prefix": prefix, "adapter": adapter}[name].prepare(
            tiny_model(), MethodConfig(name=name)
        )
        save_adapter(moved(model), path, tokenizer=tiny_tokenizer(), note=note)
    return path


@pytest.mark.parametrize("method", ["full", "lora", "prefix", "adapter"])
def test_base_beside_tuned_is_the_bare_base_for_every_method(base, rows, tmp_path, method):
    def evaluated(name):
        session = open_session(str(name), device="cpu")
        return evaluate_session(session, DataConfig(path=str(rows)), QUICK, seed=3)

    both, alone = evaluated(tuned_folder(base, tmp_path / "tuned", method)), evaluated(base)
    assert both.base == alone.base
    assert [score.metric for score in both.tuned] == [score.metric for score in both.base]
    assert both.tuned != both.base
    assert (alone.tuned, alone.comparisons) == ((), ())


@pytest.mark.parametrize("method", ["full", "lora", "prefix", "adapter"])
def test_elsewhere_compares_with_the_bare_base_for_every_method(base, rows, tmp_path, method):
    session = open_session(str(tuned_folder(base, tmp_path / "tuned", method)), device="cpu")
    found = evaluate_elsewhere(session, DataConfig(path=str(rows)), QUICK, seed=3)
    assert [place.comparison.n for place in found.places] == [96, 30]
    alone = open_session(str(base), device="cpu")
    general = [alone.renderer.render(row) for row in general_rows()]
    losses = held_out_losses(alone.loaded, general, 8, lambda done: None)
    assert found.places[0].base.value == pytest.approx(mean_loss(losses), rel=1e-6)
    assert found.places[0].comparison.difference != 0
    assert evaluate_elsewhere(alone, DataConfig(path=str(rows)), QUICK, seed=3) is None


def run_with_data(base, rows, path):
    """A run folder that remembers its data as the pipeline writes it."""
    lora_run(base, path)
    config = {"model": {"name": str(base)}, "data": {"path": str(rows), "test_size": 10}}
    (path / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    digest = hashlib.sha256(rows.read_bytes()).hexdigest()
    (path / "manifest.json").write_text(json.dumps({"data": {"files": {str(rows): digest}}}))
    return path


@pytest.fixture
def renderer():
    tokenizer = tiny_tokenizer()
    return Renderer(tokenizer, choose_template(tokenizer))


def test_held_out_rows_are_those_of_the_run_s_split(base, rows, tmp_path, renderer):
    run = run_with_data(base, rows, tmp_path / "run")
    found = held_out_rows(run, renderer)
    assert len(found) == 10
    assert len(held_out_rows(run, renderer, most=4)) == 4
    assert {row.row.path for row in found} == {str(rows)}
    assert held_out_rows(run, renderer) == found


def test_held_out_file_is_taken_whole(base, rows, tmp_path, renderer):
    run = run_with_data(base, rows, tmp_path / "run")
    config = {"data": {"path": str(rows), "test_file": str(rows)}}
    (run / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    assert len(held_out_rows(run, renderer, most=100)) == 30


@pytest.mark.parametrize("change", ["gone", "other"])
def test_rows_of_a_file_that_is_not_what_it_was_are_not_held_out(base, rows, tmp_path, renderer, change):
    mine = tmp_path / "mine.jsonl"
    mine.write_bytes(rows.read_bytes())
    run = run_with_data(base, mine, tmp_path / "run")
    if change == "gone":
        mine.unlink()
    else:
        mine.write_text(mine.read_text(encoding="utf-8").replace("It is 1.", "It is one."), encoding="utf-8")
    assert held_out_rows(run, renderer) == []


def test_merge_compares_the_loss_on_held_out_rows_and_else_on_the_probes(base, rows, tmp_path):
    merged = merge(str(run_with_data(base, rows, tmp_path / "run")))
    assert merged.path == tmp_path / "run" / "merged"
    assert merged.loss_on == "10 held-out rows"
    assert merged.loss_merged == pytest.approx(merged.loss_unmerged, abs=1e-4)
    alone = merge(str(tmp_path / "run" / "adapter"), tmp_path / "other")
    assert alone.loss_on == "the probe texts"
    assert alone.loss_unmerged != pytest.approx(merged.loss_unmerged, abs=1e-3)


def test_each_adapter_is_asked_in_its_own_form(base, tmp_path):
    """Other templates, other ends of turn, other system messages: as each alone."""
    runs = [
        lora_run(base, tmp_path / "formal", seed=1, system="Be formal."),
        lora_run(base, tmp_path / "bare", seed=2, chat_template=BARE),
    ]
    board = open_switchboard([str(run) for run in runs], device="cpu")
    assert list(board.sessions) == ["formal", "bare", "base"]
    prompts = [[Message("user", "Hello")], [Message("user", "Is it late?")]]
    requests = [(name, prompt) for prompt in prompts for name in ("bare", "base", "formal")]
    found = answer_requests(board, requests, decoding=SHORT)
    for name, place in (("formal", runs[0]), ("bare", runs[1]), ("base", base)):
        alone = answer(open_session(str(place), device="cpu"), prompts, decoding=SHORT)
        assert [text for (asked, _), text in zip(requests, found, strict=True) if asked == name] == alone
        assert answer(board.turn_to(name), prompts, decoding=SHORT) == alone
    ids = {name: session.ask(prompts[0]) for name, session in board.sessions.items()}
    assert len({tuple(each) for each in ids.values()}) == 3


def test_system_message_of_the_user_s_goes_to_all(base, tmp_path):
    run = lora_run(base, tmp_path / "formal", system="Be formal.")
    board = open_switchboard([str(run)], device="cpu", system="Be brief.")
    assert {session.target.system for session in board.sessions.values()} == {"Be brief."}


@pytest.mark.parametrize(
    ("place", "name"), [("runs/one", "one"), ("runs/one/adapter", "one"), ("v1.2", "v1.2")]
)
def test_adapter_is_called_by_its_folder_or_its_run(tmp_path, place, name):
    assert adapter_name(str(tmp_path / place)) == name


def test_request_to_no_adapter_is_refused(base, tmp_path):
    board = open_switchboard([str(lora_run(base, tmp_path / "formal"))], device="cpu")
    message = "no adapter is called `nobody`"
    with pytest.raises(ModelError, match=f"^{re.escape(message)}$"):
        answer_requests(board, [("nobody", [Message("user", "Hi")])], decoding=SHORT)

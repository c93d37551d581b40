"""A merged folder is base plus adapter, and any tool loads it and stops where it should."""

import json
import re
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.nn import functional

from tiny import tiny_model, tiny_model_folder, tiny_tokenizer
from tunesmith.config import MethodConfig
from tunesmith.errors import ModelError, RunFailed
from tunesmith.methods import adapter, lora, prefix, qlora
from tunesmith.models import merge
from tunesmith.models.adapter import NOTE, find_target, load_target, save_adapter, save_whole
from tunesmith.models.find import find_model
from tunesmith.models.four_bit import dequantized
from tunesmith.models.generate import Decoding, generate_ids
from tunesmith.models.load import load_model
from tunesmith.models.merge import TOLERANCE, merge_adapter

PROBES = ([1, 40, 50, 60, 2], [1, 7], [9] * 40)
STOP_IDS = (2,)
GREEDY = Decoding(max_new_tokens=20)

# What someone without our package would write: greedy tokens, by the folder's own settings alone.
PLAIN_USE = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, prompts = sys.argv[1], json.loads(sys.argv[2])
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
answers = [model.generate(torch.tensor([ids]), max_new_tokens=20)[0, len(ids):].tolist() for ids in prompts]
assert not any(name.split(".")[0] == "tunesmith" for name in sys.modules)
print(json.dumps({"answers": answers, "template": tokenizer.chat_template}))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("models") / "base")


def adapter_folder(base, folder, *, spread=0.3, **settings):
    """A trained adapter: every B drawn anew."""
    model = lora.prepare(tiny_model(), MethodConfig(rank=4, **settings))
    torch.manual_seed(11)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=spread)
    note = {"base_model": str(base), "system": "Be brief."}
    save_adapter(model, folder, tokenizer=tiny_tokenizer(), note=note)
    return folder


@pytest.fixture(scope="module")
def target(base, tmp_path_factory):
    return find_target(str(adapter_folder(base, tmp_path_factory.mktemp("adapters") / "adapter")))


@pytest.fixture(scope="module")
def merged(target, tmp_path_factory):
    output = tmp_path_factory.mktemp("merged") / "new" / "model"
    return merge_adapter(target, output, probes=PROBES, stop_ids=STOP_IDS)


def loaded_from(name):
    return load_target(find_target(str(name)), dtype=torch.float32, device="cpu")


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits


def greedy(model, *, stop_ids):
    return generate_ids(model, PROBES, decoding=GREEDY, stop_ids=stop_ids, pad_id=0)


@pytest.mark.parametrize("probe", PROBES)
def test_merged_computes_what_base_plus_adapter_does(target, merged, probe):
    tuned = logits(loaded_from(target.name).model, probe)
    found = logits(loaded_from(merged.path).model, probe)
    torch.testing.assert_close(found, tuned, rtol=1e-4, atol=1e-4)
    assert (tuned - logits(tiny_model(), probe)).abs().max() > 0.01


def test_reported_difference_is_the_largest_over_the_probes(target, merged):
    tuned, found = (loaded_from(name).model for name in (target.name, merged.path))
    gaps = [(logits(found, probe)[0, -1] - logits(tuned, probe)[0, -1]).abs().max() for probe in PROBES]
    assert merged.max_logit_difference == pytest.approx(max(gaps).item(), abs=1e-6)
    assert merged.max_logit_difference <= merged.tolerance == TOLERANCE["float32"]


def test_merged_weights_are_w_plus_b_a_and_nothing_else_changed(target, merged):
    before, after = tiny_model().state_dict(), loaded_from(merged.path).model.state_dict()
    adapter = loaded_from(target.name).model.state_dict()
    assert before.keys() == after.keys()
    for name, weight in before.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.default.weight" in adapter:
            lora_a, lora_b = (adapter[f"{stem}.lora_{side}.default.weight"] for side in "AB")
            weight = weight + 32 / 4 * (lora_b @ lora_a)
        torch.testing.assert_close(after[name], weight, rtol=1e-5, atol=1e-6, msg=name)


def test_plain_transformers_gives_the_same_greedy_answers_and_stops_by_itself(target, tmp_path):
    """The stop token is one that the tuned model says in its first answer."""
    tuned = loaded_from(target.name).model
    stop = greedy(tuned, stop_ids=())[0][3]
    output = merge_adapter(target, tmp_path / "merged", probes=PROBES, stop_ids=(2, stop)).path
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN_USE, output, json.dumps(PROBES)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    ended = [answer[:-1] if answer[-1] in (2, stop) else answer for answer in found["answers"]]
    assert ended == greedy(tuned, stop_ids=(2, stop))
    assert found["answers"][0][-1] == stop
    assert len(found["answers"][0]) <= 4
    assert found["template"] == tiny_tokenizer().chat_template


def test_saved_generation_settings_end_at_every_stop_token(target, tmp_path):
    output = merge_adapter(target, tmp_path / "merged", probes=PROBES, stop_ids=(7, 2)).path
    saved = json.loads((output / "generation_config.json").read_text())
    assert saved["eos_token_id"] == [7, 2]
    assert saved["pad_token_id"] == 0


def test_merged_folder_is_whole_and_names_no_path_of_this_machine(merged, base):
    names = {file.name for file in merged.path.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", NOTE} <= names
    assert not any("adapter" in name or name.endswith(".bin") for name in names)
    assert str(base) not in (merged.path / "config.json").read_text()
    assert [file.name for file in merged.path.parent.iterdir()] == [merged.path.name]


def test_merged_folder_is_a_target_with_the_training_rows_system_message(merged):
    target = find_target(str(merged.path))
    assert (target.adapter, target.system) == (None, "Be brief.")


def test_merging_again_gives_the_same_bytes(target, merged, tmp_path):
    again = merge_adapter(target, tmp_path / "again", probes=PROBES, stop_ids=STOP_IDS).path
    for name in ("model.safetensors", "config.json", "generation_config.json", NOTE):
        assert (again / name).read_bytes() == (merged.path / name).read_bytes()


def test_in_bfloat16_the_folder_is_bfloat16_and_within_its_own_tolerance(target, tmp_path):
    found = merge_adapter(target, tmp_path / "half", probes=PROBES, stop_ids=STOP_IDS, dtype="bfloat16")
    assert json.loads((found.path / "config.json").read_text())["dtype"] == "bfloat16"
    assert 0 < found.max_logit_difference <= found.tolerance == TOLERANCE["bfloat16"]


def test_untrained_adapter_merges_to_the_base_exactly(base, tmp_path):
    target = find_target(str(adapter_folder(base, tmp_path / "adapter", spread=0.0)))
    found = merge_adapter(target, tmp_path / "merged", probes=PROBES, stop_ids=STOP_IDS)
    assert found.max_logit_difference == 0
    assert torch.equal(logits(loaded_from(found.path).model, PROBES[0]), logits(tiny_model(), PROBES[0]))


def test_dropout_of_training_plays_no_part(base, tmp_path):
    target = find_target(str(adapter_folder(base, tmp_path / "adapter", dropout=0.9)))
    found = merge_adapter(target, tmp_path / "merged", probes=PROBES, stop_ids=STOP_IDS)
    assert found.max_logit_difference < 1e-4


def test_merge_that_changes_the_logits_is_refused_and_leaves_nothing(target, tmp_path, monkeypatch):
    monkeypatch.setitem(merge.TOLERANCE, "bfloat16", 1e-5)
    with pytest.raises(
        RunFailed, match=r"^merged and unmerged logits differ by 0\.\d+, above 1e-05 for"
    ) as c:
        merge_adapter(target, tmp_path / "new" / "out", probes=PROBES, stop_ids=STOP_IDS, dtype="bfloat16")
    assert c.value.hint == "merge in float32 (`--dtype float32`), or keep using the adapter unmerged"
    assert list(tmp_path.iterdir()) == []


def test_adapter_with_an_infinite_weight_is_refused(base, tmp_path):
    target = find_target(str(adapter_folder(base, tmp_path / "adapter", spread=float("inf"))))
    message = f"`{target.adapter}` cannot be merged: NaNs detected"
    with pytest.raises(RunFailed, match=f"^{re.escape(message)}") as caught:
        merge_adapter(target, tmp_path / "merged", probes=PROBES, stop_ids=STOP_IDS)
    assert caught.value.hint.startswith("its training went wrong; train again with a lower")
    assert not (tmp_path / "merged").exists()


def folder_of(base, folder, method, settings, *, four_bit=False, spread=0.3):
    """An adapter of any method whose weights have moved."""
    source = find_model(str(base))
    loaded = load_model(source, dtype=torch.float32, device="cpu", four_bit=four_bit)
    model = method.prepare(loaded.model, settings)
    torch.manual_seed(11)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight), alpha=spread)
    note = {"base_model": str(base), "system": None, "method": settings.name, "four_bit": four_bit}
    save_adapter(model, folder, tokenizer=tiny_tokenizer(), note=note)
    return find_target(str(folder))


@pytest.mark.parametrize("variant", ["rslora", "dora"])
def test_variants_merge_like_plain_lora(base, tmp_path, variant):
    settings = MethodConfig(rank=4, variant=variant)
    target = folder_of(base, tmp_path / "adapter", lora, settings, spread=0.1)
    found = merge_adapter(target, tmp_path / "merged", probes=PROBES, stop_ids=STOP_IDS)
    assert found.max_logit_difference <= 1e-4
    tuned, merged = (loaded_from(name).model for name in (target.name, found.path))
    assert (
        greedy(merged, stop_ids=(2,)) == greedy(tuned, stop_ids=(2,)) != greedy(tiny_model(), stop_ids=(2,))
    )


def test_qlora_merges_into_what_its_4_bit_base_stands_for(base, tmp_path):
    settings = MethodConfig(name="qlora", rank=4)
    target = folder_of(base, tmp_path / "adapter", qlora, settings, four_bit=True)
    found = merge_adapter(target, tmp_path / "merged", probes=PROBES, stop_ids=STOP_IDS)
    assert found.max_logit_difference <= 1e-3
    tuned, merged = loaded_from(target.name).model, loaded_from(found.path).model
    assert not any("bit" in type(layer).__name__ for layer in merged.modules())
    assert "quantization_config" not in json.loads((found.path / "config.json").read_text())
    assert greedy(merged, stop_ids=(2,)) == greedy(tuned, stop_ids=(2,))
    held = load_model(find_model(str(base)), dtype=torch.float32, device="cpu", four_bit=True).model
    plain = dequantized(held, dtype=torch.float32).state_dict()
    name = "model.layers.0.self_attn.q_proj"
    lora_a, lora_b = (
        tuned.state_dict()[f"base_model.model.{name}.lora_{side}.default.weight"] for side in "AB"
    )
    expected = plain[f"{name}.weight"] + settings.alpha / 4 * (lora_b @ lora_a)
    torch.testing.assert_close(merged.state_dict()[f"{name}.weight"], expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(plain[f"{name}.weight"], tiny_model().state_dict()[f"{name}.weight"])


def test_qlora_merges_in_bfloat16_too(base, tmp_path):
    target = folder_of(base, tmp_path / "a", qlora, MethodConfig(name="qlora", rank=4), four_bit=True)
    found = merge_adapter(target, tmp_path / "m", probes=PROBES, stop_ids=STOP_IDS, dtype="bfloat16")
    assert 0 < found.max_logit_difference <= found.tolerance
    stored = load_file(found.path / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}


def test_losses_are_of_all_probe_tokens_but_the_first(target, merged):
    for name, found in ((target.name, merged.loss_unmerged), (merged.path, merged.loss_merged)):
        model = loaded_from(name).model
        losses = [
            functional.cross_entropy(logits(model, probe)[0, :-1], torch.tensor(probe[1:]), reduction="sum")
            for probe in PROBES
        ]
        assert found == pytest.approx(float(sum(losses)) / sum(len(probe) - 1 for probe in PROBES), rel=1e-5)
    assert abs(merged.loss_merged - merged.loss_unmerged) <= merged.loss_tolerance


def test_merge_that_changes_the_loss_is_refused_and_leaves_nothing(target, tmp_path):
    measured = iter([1.0, 1.002])
    with pytest.raises(
        RunFailed, match=r"^merged and unmerged loss differ by 0.002, above 0.001 for float32$"
    ):
        merge_adapter(
            target, tmp_path / "m", probes=PROBES, stop_ids=STOP_IDS, loss_of=lambda loaded: next(measured)
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("method", "settings", "reason"),
    [
        (prefix, MethodConfig(name="prefix"), "is a prefix: layers attend to it as to tokens, and no change"),
        (adapter, MethodConfig(name="adapter"), "has a nonlinear layer inside, so it is no change of the"),
    ],
    ids=["prefix", "adapter"],
)
def test_what_no_weight_can_hold_is_refused_with_the_reason(base, tmp_path, method, settings, reason):
    target = folder_of(base, tmp_path / "adapter", method, settings)
    message = f"`{target.adapter}` cannot be merged: it {reason}"
    with pytest.raises(ModelError, match=f"^{re.escape(message)}") as caught:
        merge_adapter(target, tmp_path / "merged", probes=PROBES, stop_ids=STOP_IDS)
    assert caught.value.hint == "keep using it beside its base, or train with `--method lora`, which merges"


def test_whole_models_have_nothing_to_merge(base, merged, tmp_path):
    note = {"base_model": str(base), "method": "full"}
    save_whole(tiny_model(), tmp_path / "full", tokenizer=tiny_tokenizer(), note=note)
    for path in (tmp_path / "full", merged.path):
        message = f"`{path}` is a whole model already: there is nothing to merge"
        with pytest.raises(ModelError, match=f"^{re.escape(message)}$") as caught:
            merge_adapter(find_target(str(path)), tmp_path / "m", probes=PROBES, stop_ids=STOP_IDS)
        assert caught.value.hint == f"use `{path}` as it is; any Hugging Face tool loads it"


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning")
def test_output_layer_that_was_trained_apart_from_the_embedding_survives_the_merge(base, tmp_path):
    model = load_model(find_model(str(base)), dtype=torch.float32, device="cpu").model
    model.resize_token_embeddings(275, mean_resizing=False)
    settings = {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in tuned.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight), alpha=0.1)
    tuned.save_pretrained(tmp_path / "adapter")
    tiny_tokenizer().save_pretrained(tmp_path / "adapter")
    found = merge_adapter(
        find_target(str(tmp_path / "adapter")), tmp_path / "m", probes=PROBES, stop_ids=STOP_IDS
    )
    tuned = loaded_from(tmp_path / "adapter").model
    torch.testing.assert_close(
        logits(loaded_from(found.path).model, PROBES[0]), logits(tuned, PROBES[0]), rtol=1e-4, atol=1e-4
    )


THINGS = ("sea", "moon", "bread", "river", "clock", "piano", "snow", "garden", "train", "winter")
QUESTIONS = (
    "What is a {}?",
    "Write a line about the {}.",
    "Name a colour of the {}.",
    "Translate {} to French.",
    "Is the {} old?",
)


@pytest.mark.real_model
def test_merged_and_unmerged_give_the_same_greedy_tokens_on_50_prompts(tmp_path):
    source = find_model("smollm2-135m")
    loaded = load_model(source, dtype=torch.float32, device="cpu")
    model = lora.prepare(loaded.model, MethodConfig())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.004)
    note = {"base_model": source.name, "method": "lora"}
    save_adapter(model, tmp_path / "adapter", tokenizer=loaded.tokenizer, note=note)
    target = find_target(str(tmp_path / "adapter"))
    prompts = [loaded.tokenizer(text.format(thing)).input_ids for text in QUESTIONS for thing in THINGS]
    found = merge_adapter(target, tmp_path / "merged", probes=prompts[:3], stop_ids=STOP_IDS)
    asked = {"decoding": Decoding(max_new_tokens=5), "stop_ids": STOP_IDS, "pad_id": 0, "batch_rows": 50}
    tuned = generate_ids(model.eval(), prompts, **asked)
    with model.disable_adapter():
        assert generate_ids(model, prompts[:10], **asked) != tuned[:10]
    assert generate_ids(loaded_from(found.path).model, prompts, **asked) == tuned
    assert len(prompts) == 50


def test_model_without_adapter_has_nothing_to_merge(base, tmp_path):
    message = f"`{base}` has no adapter to merge"
    with pytest.raises(ModelError, match=f"^{re.escape(message)}$") as caught:
        merge_adapter(find_target(str(base)), tmp_path / "merged", probes=PROBES, stop_ids=STOP_IDS)
    assert caught.value.hint == "give a run or an adapter folder"


def test_existing_folder_is_never_written_over(target, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ModelError, match=f"^`{re.escape(str(tmp_path))}` exists already$") as caught:
        merge_adapter(target, tmp_path, probes=PROBES, stop_ids=STOP_IDS)
    assert caught.value.hint == "choose another folder with `--output`"
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]

"""Adapter folders: standard files that other tools read, found by run, adapter or model folder."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from tiny import tiny_model, tiny_model_folder, tiny_tokenizer
from tunesmith.config import MethodConfig
from tunesmith.errors import ModelError
from tunesmith.methods import lora
from tunesmith.models.adapter import (
    NOTE,
    find_target,
    load_target,
    save_adapter,
    target_tokenizer,
)
from tunesmith.models.base import as_base, has_base

IDS = torch.tensor([[1, 40, 50, 60, 2, 0, 9]])
SYSTEM = "Answer in one word, 用中文."

# What someone without our package would write; prints the logits of the last position.
PLAIN_LOADER = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
tokenizer = AutoTokenizer.from_pretrained(adapter)
turns = [{"role": "user", "content": "Hi"}]
ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
with torch.no_grad():
    logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
assert not any(name.split(".")[0] == "tunesmith" for name in sys.modules)
print(json.dumps({"ids": ids, "logits": logits.tolist()}))
"""


def trained(*, seed=0):
    """The tiny model with an adapter whose every B has moved away from 0."""
    model = lora.prepare(tiny_model(), MethodConfig(rank=4))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def run(base, tmp_path):
    """A run folder with a manifest and a trained adapter."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    tokenizer = tiny_tokenizer(chat_template="{{ messages[0].content }}<|im_end|>")
    note = {"base_model": str(base), "revision": None, "system": SYSTEM}
    save_adapter(trained(), folder / "adapter", tokenizer=tokenizer, note=note)
    return folder


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def loaded_from(name):
    return load_target(find_target(str(name)), dtype=torch.float32, device="cpu")


@pytest.mark.parametrize("inside", ["", "adapter"])
def test_run_folder_and_adapter_folder_are_the_same_target(run, base, inside):
    target = find_target(str(run / inside))
    assert target.name == str(run / inside)
    assert target.adapter == run / "adapter"
    assert target.base.path == str(base)
    assert target.system == SYSTEM


def test_model_folder_is_a_target_without_adapter(base):
    target = find_target(str(base))
    assert (target.adapter, target.system, target.base.kind) == (None, None, "folder")


def test_model_folder_with_a_note_keeps_its_system_message(base, tmp_path):
    merged = shutil.copytree(base, tmp_path / "merged")
    (merged / NOTE).write_text(json.dumps({"system": SYSTEM}))
    target = find_target(str(merged))
    assert (target.adapter, target.system) == (None, SYSTEM)


def test_adapter_folder_without_our_note_loads_by_its_own_config(run, base):
    (run / "adapter" / NOTE).unlink()
    config = json.loads((run / "adapter/adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(base)
    (run / "adapter/adapter_config.json").write_text(json.dumps(config))
    target = find_target(str(run / "adapter"))
    assert (target.base.path, target.system) == (str(base), None)
    assert torch.equal(logits(loaded_from(run / "adapter").model), logits(trained()))


def test_revision_of_a_hub_base_is_kept(run):
    (run / "adapter" / NOTE).write_text(json.dumps({"base_model": "who/what", "revision": "abc"}))
    base = find_target(str(run)).base
    assert (base.kind, base.path, base.revision) == ("hub", "who/what", "abc")


def test_loaded_adapter_computes_what_the_trained_one_did(run):
    loaded = loaded_from(run)
    assert torch.equal(logits(loaded.model), logits(trained()))
    assert not loaded.model.training


def test_loaded_base_without_adapter_has_none(base):
    loaded = loaded_from(base)
    assert not has_base(loaded)
    assert torch.equal(logits(loaded.model), logits(tiny_model()))


def test_switched_off_the_model_is_its_base_and_back_on_it_is_tuned_again(run):
    loaded = loaded_from(run)
    model = loaded.model
    assert has_base(loaded)
    tuned = logits(model)
    with as_base(loaded):
        assert torch.equal(logits(model), logits(tiny_model()))
    assert torch.equal(logits(model), tuned)
    assert not torch.equal(tuned, logits(tiny_model()))


def test_tokenizer_beside_the_adapter_goes_before_the_base_s(run):
    target = find_target(str(run))
    assert target_tokenizer(target).chat_template == "{{ messages[0].content }}<|im_end|>"
    (run / "adapter/tokenizer.json").unlink()
    assert target_tokenizer(target).chat_template == tiny_tokenizer().chat_template


def test_plain_peft_and_transformers_load_the_folder(base, tmp_path):
    adapter, tokenizer = tmp_path / "adapter", tiny_tokenizer()
    save_adapter(trained(), adapter, tokenizer=tokenizer, note={"system": None})
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN_LOADER, base, adapter], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    with torch.no_grad():
        expected = trained()(input_ids=torch.tensor([found["ids"]])).logits[0, -1]
    assert tokenizer.decode(found["ids"]) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    torch.testing.assert_close(torch.tensor(found["logits"]), expected, rtol=1e-5, atol=1e-5)


def test_folder_holds_the_standard_files_and_no_pickle(run):
    names = {file.name for file in (run / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", NOTE} <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)


def test_note_is_readable_text(run):
    text = (run / "adapter" / NOTE).read_text(encoding="utf-8")
    assert SYSTEM in text
    assert text.endswith("}\n")


def test_run_without_adapter_says_how_to_finish_it(run):
    shutil.rmtree(run / "adapter")
    message = f"run `{run}` has no adapter: its training did not finish"
    with pytest.raises(ModelError, match=f"^{re.escape(message)}$") as caught:
        find_target(str(run))
    assert caught.value.hint == f"go on with `tunesmith train --resume {run}`"


def test_adapter_that_names_no_base_is_refused(run):
    adapter = run / "adapter"
    (adapter / NOTE).unlink()
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(ModelError, match=re.escape(f"`{adapter}` does not name its base model")) as caught:
        find_target(str(adapter))
    assert caught.value.hint == "add `base_model_name_or_path`"


def test_adapter_whose_base_is_gone_names_the_base(run):
    (run / "adapter" / NOTE).write_text(json.dumps({"base_model": "/gone/base"}))
    with pytest.raises(ModelError, match=re.escape("`/gone/base` is not a model folder")):
        find_target(str(run))


def test_pickled_adapter_is_refused_before_it_is_read(run):
    adapter = run / "adapter"
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(
        ModelError, match=f"^`{re.escape(str(adapter))}` has no adapter_model.safetensors$"
    ) as c:
        loaded_from(run)
    assert c.value.hint.startswith("other weight formats can run code when they are read")


def test_adapter_of_another_shape_does_not_fit(run):
    config = json.loads((run / "adapter/adapter_config.json").read_text())
    (run / "adapter/adapter_config.json").write_text(json.dumps(config | {"r": 5}))
    message = f"adapter `{run / 'adapter'}` does not fit `"
    with pytest.raises(ModelError, match=re.escape(message)) as caught:
        loaded_from(run)
    assert str(caught.value).endswith(": its weights are of rank 4, its adapter_config.json says 5")
    assert caught.value.hint.startswith("load it on the base model it was trained on")


def test_adapter_of_a_wider_model_does_not_fit(run, base):
    config = tiny_model().config
    config.intermediate_size = 96
    LlamaForCausalLM(config).save_pretrained(base.parent / "wider")
    tiny_tokenizer().save_pretrained(base.parent / "wider")
    (run / "adapter" / NOTE).write_text(json.dumps({"base_model": str(base.parent / "wider")}))
    message = f"adapter `{run / 'adapter'}` does not fit `{base.parent / 'wider'}`: size mismatch for "
    with pytest.raises(ModelError, match=f"^{re.escape(message)}"):
        loaded_from(run)


@pytest.mark.parametrize("kind", ["NOPE", None])
def test_adapter_of_an_unknown_type_is_refused(run, kind):
    file = run / "adapter/adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"peft_type": kind}))
    message = f"`{run / 'adapter'}` is an adapter of the type {kind}, which is not known here"
    with pytest.raises(ModelError, match=f"^{re.escape(message)}$") as caught:
        loaded_from(run)
    assert caught.value.hint == "a newer peft may know it: `pip install --upgrade peft`"


def test_adapter_config_names_the_base_as_the_user_did(base, tmp_path):
    note = {"base_model": "some/model"}
    save_adapter(trained(), tmp_path, tokenizer=tiny_tokenizer(), note=note)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "some/model"


@pytest.mark.parametrize("kept", [0, 7, 200, 5000])
def test_adapter_whose_copy_broke_off_is_an_error_with_a_remedy(run, kept):
    file = run / "adapter/adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ModelError, match=re.escape(f"adapter `{run / 'adapter'}` does not fit `")):
        loaded_from(run)


def test_adapter_with_a_missing_tensor_is_refused(run):
    file = run / "adapter/adapter_model.safetensors"
    weights = load_file(file)
    weights.pop(next(iter(weights)))
    save_file(weights, file)
    with pytest.raises(ModelError, match=r": it holds 27 LoRA tensors where the model takes 28$"):
        loaded_from(run)


def test_adapter_of_a_deeper_model_is_refused(run, base):
    """Its first layers would fit, and the rest would be left out in silence."""
    config = tiny_model().config
    config.num_hidden_layers = 1
    shallow = LlamaForCausalLM(config)
    shallow.save_pretrained(base.parent / "shallow")
    tiny_tokenizer().save_pretrained(base.parent / "shallow")
    (run / "adapter" / NOTE).write_text(json.dumps({"base_model": str(base.parent / "shallow")}))
    with pytest.raises(ModelError, match=r": it holds 28 LoRA tensors where the model takes 14$"):
        loaded_from(run)


@pytest.mark.parametrize("file", [NOTE, "adapter_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b"\xff"])
def test_damaged_description_is_an_error_with_a_remedy(run, file, content):
    path = run / "adapter" / file
    path.write_bytes(content)
    with pytest.raises(ModelError, match=re.escape(f"`{path}` is no JSON object: ")) as caught:
        find_target(str(run))
    assert caught.value.hint == "copy the folder again from where it came"

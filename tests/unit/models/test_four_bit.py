"""4-bit weights: what they compute, in training as in evaluation, and the way back to a plain model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, dequantize_blockwise, quantize_4bit
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import tunesmith
from tiny import tiny_model, tiny_model_folder, tiny_tokenizer
from tunesmith.config import MethodConfig
from tunesmith.errors import ModelError
from tunesmith.methods import qlora
from tunesmith.models.find import find_model
from tunesmith.models.four_bit import check_device, check_library, dequantized, is_four_bit, quantization
from tunesmith.models.load import load_model

IDS = torch.tensor([[1, 40, 50, 60, 2, 0, 9]])
CHILD = """
import json, sys, torch
from tunesmith.errors import ModelError
from tunesmith.models.find import find_model
from tunesmith.models.load import load_model
from tunesmith.training.optimizer import make_optimizer

said = []
source = find_model(sys.argv[1])
plain = load_model(source, dtype=torch.float32, device="cpu").model
learning = list(plain.parameters())
settings = {"learning_rate": 1e-3, "weight_decay": 0.0}
make_optimizer(learning, kind="adamw_torch", **settings)
for ask in (
    lambda: load_model(source, dtype=torch.float32, device="cpu", four_bit=True),
    lambda: load_model(find_model(sys.argv[2]), dtype=torch.float32, device="cpu"),
    lambda: make_optimizer(learning, kind="adamw_8bit", **settings),
):
    try:
        ask()
    except ModelError as error:
        said.append([str(error), error.hint])
print(json.dumps({"said": said, "is_loaded": "bitsandbytes" in sys.modules}))
"""


def wide_folder(path):
    """A Llama with widths of whole quantization blocks, on which every kernel of bitsandbytes can run."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=272,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        attention_bias=True,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def gpt2_folder(path):
    torch.manual_seed(0)
    sizes = {"vocab_size": 272, "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 32}
    dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    GPT2LMHeadModel(GPT2Config(**sizes, **dropouts, bos_token_id=0, eos_token_id=0)).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


FOLDERS = {"narrow": tiny_model_folder, "wide": wide_folder, "gpt2": gpt2_folder}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    return {name: make(place / name) for name, make in FOLDERS.items()}


def in_four_bit(folder, *, dtype=torch.float32):
    return load_model(find_model(str(folder)), dtype=dtype, device="cpu", four_bit=True).model


def layers_of(model):
    return {path: layer for path, layer in model.named_modules() if type(layer).__name__ == "Linear4bit"}


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantization_is_that_of_the_paper(dtype):
    asked = quantization(dtype)
    assert asked.load_in_4bit
    assert asked.bnb_4bit_quant_type == "nf4"
    assert asked.bnb_4bit_use_double_quant
    assert asked.bnb_4bit_compute_dtype == dtype


@pytest.mark.parametrize("name", ["wide", "gpt2"])
def test_all_linear_layers_but_the_output_are_in_four_bit(folders, name):
    model = in_four_bit(folders[name])
    linear = {
        path
        for path, layer in AutoModelForCausalLM.from_pretrained(folders[name]).named_modules()
        if type(layer).__name__ in ("Linear", "Conv1D") and path != "lm_head"
    }
    assert layers_of(model).keys() == linear
    assert {layer.weight.dtype for layer in layers_of(model).values()} == {torch.uint8}
    assert is_four_bit(model)


def test_layers_of_no_whole_blocks_are_held_dequantized_on_the_cpu(folders):
    """Inputs of 32 there are, and of 64 for `down_proj`; bitsandbytes' own kernel would be wrong for 32."""
    model = in_four_bit(folders["narrow"])
    assert {path.split(".")[-1] for path in layers_of(model)} == {"down_proj"}
    whole = AutoModelForCausalLM.from_pretrained(folders["narrow"])
    plain = {path: layer for path, layer in model.named_modules() if type(layer) is torch.nn.Linear}
    assert len(plain) == 2 * 6 + 1
    for path, layer in plain.items():
        weight = whole.get_submodule(path).weight.detach()
        expected = weight if path == "lm_head" else by_hand(weight)
        torch.testing.assert_close(layer.weight, expected, rtol=0, atol=1e-7)


def by_hand(weight_OI):
    """What four bits make of a weight: sixteen values times the scale of each 64, in the order of memory."""
    packed, state = quantize_4bit(weight_OI, quant_type="nf4", compress_statistics=True)
    values = state.code[torch.stack([packed >> 4, packed & 15], dim=-1).flatten().long()]
    scales = dequantize_blockwise(state.absmax, state.state2) + state.offset
    return (values.view(-1, 64) * scales[:, None]).view_as(weight_OI)


def test_a_plain_model_is_not_in_four_bit():
    assert not is_four_bit(tiny_model())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_stays_whole_is_in_the_compute_dtype(folders, dtype):
    model = in_four_bit(folders["narrow"], dtype=dtype)
    whole = {name: p for name, p in model.named_parameters() if p.dtype != torch.uint8}
    assert {p.dtype for p in whole.values()} == {dtype}
    assert any("embed_tokens" in name for name in whole)
    assert any("norm" in name for name in whole)
    assert {layer.compute_dtype for layer in layers_of(model).values()} == {dtype}
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("name", FOLDERS)
def test_training_and_evaluation_compute_the_same(folders, name):
    model = in_four_bit(folders[name])
    found = logits(model.eval())
    for layer in layers_of(model).values():
        layer.train()
    assert torch.equal(logits(model), found)


def gradients(model):
    model.zero_grad()
    model.train()
    model(input_ids=IDS, labels=IDS).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", FOLDERS)
def test_an_evaluation_in_between_changes_no_gradient(folders, name):
    """bitsandbytes repacks weights at an evaluation on some CPUs, and gradients stop there."""
    model = qlora.prepare(in_four_bit(folders[name]), MethodConfig(rank=4))
    for weight in (p for path, p in model.named_parameters() if "lora_B" in path):
        torch.nn.init.normal_(weight)
    before = gradients(model)
    logits(model.eval())
    after = gradients(model)
    assert before.keys() == after.keys()
    assert [path for path in before if not torch.equal(before[path], after[path])] == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FOLDERS)
def test_dequantized_weights_are_those_of_bitsandbytes(folders, name, dtype):
    model = in_four_bit(folders[name])
    expected = {
        path: dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(dtype)
        for path, layer in layers_of(model).items()
    }
    plain = dequantized(model, dtype=dtype)
    for path, weight_OI in expected.items():
        layer = plain.get_submodule(path)
        stored = layer.weight.T if type(layer).__name__ == "Conv1D" else layer.weight
        assert torch.equal(stored, weight_OI)
    assert {p.dtype for p in plain.parameters()} == {dtype}
    assert not is_four_bit(plain)


@pytest.mark.parametrize("name", FOLDERS)
def test_dequantized_model_computes_what_the_quantized_one_did(folders, name):
    model = in_four_bit(folders[name])
    before = logits(model)
    torch.testing.assert_close(logits(dequantized(model, dtype=torch.float32)), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FOLDERS)
def test_dequantized_folder_is_a_plain_one(folders, name, dtype, tmp_path):
    plain = dequantized(in_four_bit(folders[name]), dtype=dtype)
    plain.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert [key for key in config if "quant" in key] == []
    original = json.loads((folders[name] / "config.json").read_text())
    assert config["dtype"] == str(dtype).removeprefix("torch.")
    assert config.keys() == original.keys()
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype).eval()
    assert torch.equal(logits(again), logits(plain))
    assert vars(again).keys() == vars(plain).keys()
    assert {p.requires_grad for p in plain.parameters()} == {True}


def test_dequantized_keeps_ties_and_float32_frequencies(folders):
    plain = dequantized(in_four_bit(folders["narrow"]), dtype=torch.bfloat16)
    assert plain.get_output_embeddings().weight is plain.get_input_embeddings().weight
    assert {buffer.dtype for buffer in plain.buffers()} == {torch.float32}


def test_mps_is_refused_with_the_ways_out():
    with pytest.raises(
        ModelError, match=r"^4-bit weights are not offered on mps: bitsandbytes has no"
    ) as caught:
        check_device("mps")
    assert caught.value.hint == "use `--device cpu`, or another method such as `--method lora`"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_other_devices_are_taken(device):
    check_device(device)


def without_bitsandbytes(place):
    """A folder with all that is installed here but bitsandbytes, and our own source."""
    place.mkdir()
    for folder in map(Path, sys.path):
        if folder.name in ("site-packages", "dist-packages"):
            for entry in folder.iterdir():
                if not entry.name.startswith("bitsandbytes") and not (place / entry.name).exists():
                    (place / entry.name).symlink_to(entry)
    return os.pathsep.join([str(Path(tunesmith.__file__).parents[1]), str(place)])


def test_missing_bitsandbytes_is_an_error_with_the_command_that_installs_it(folders, tmp_path):
    check_library()
    stored = tmp_path / "stored"
    in_four_bit(folders["wide"]).save_pretrained(stored)
    tiny_tokenizer().save_pretrained(stored)
    environment = os.environ | {"PYTHONPATH": without_bitsandbytes(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-S", "-c", CHILD, str(folders["narrow"]), str(stored)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    message = "4-bit weights and 8-bit or paged optimizers need bitsandbytes, which is missing or too old"
    hint = "install it with `pip install bitsandbytes`; `--upgrade` replaces an old one"
    assert json.loads(done.stdout) == {"said": [[message, hint]] * 3, "is_loaded": False}

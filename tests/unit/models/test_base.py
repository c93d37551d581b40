"""Every method's folder loads to the bit, its base can be had back to the bit, and vocabularies may grow."""

import json
import re
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM

from tiny import tiny_model, tiny_model_folder, tiny_tokenizer
from tunesmith.config import MethodConfig
from tunesmith.errors import ModelError
from tunesmith.methods import adapter, full, lora, prefix, qlora
from tunesmith.models.adapter import find_target, load_target, save_adapter, save_whole
from tunesmith.models.base import as_base, has_base, set_vocabulary, vocabulary_rows
from tunesmith.models.find import find_model
from tunesmith.models.folders import NOTE
from tunesmith.models.load import LoadedModel, load_model

IDS = torch.tensor([[1, 40, 50, 60, 2, 0, 9]])
NEW_TOKENS = tuple(AddedToken(f"<|new{number}|>", normalized=False) for number in range(20))  # ids 259 to 278
NEW_IDS = torch.tensor([[1, 40, 275, 276, 277, 278, 9]])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("models") / "base")


METHODS = {
    "lora": (lora.prepare, MethodConfig(rank=4)),
    "rslora": (lora.prepare, MethodConfig(rank=4, variant="rslora")),
    "dora": (lora.prepare, MethodConfig(rank=4, variant="dora")),
    "qlora": (qlora.prepare, MethodConfig(name="qlora", rank=4)),
    "prefix": (prefix.prepare, MethodConfig(name="prefix", num_virtual_tokens=5)),
    "adapter": (adapter.prepare, MethodConfig(name="adapter", reduction_factor=4)),
}
NAMES = {"rslora": "lora", "dora": "lora"}


def moved(model, *, seed=0):
    """The model with all that learns drawn anew."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight), alpha=0.1)
    return model.eval()


def trained(base, name):
    """A model of the method on the tiny base, moved away from it."""
    prepare, settings = METHODS[name]
    source = find_model(str(base))
    model = load_model(source, dtype=torch.float32, device="cpu", four_bit=name == "qlora").model
    return moved(prepare(model, settings))


def run_folder(base, path, name):
    model = trained(base, name)
    note = {"base_model": str(base), "method": NAMES.get(name, name), "four_bit": name == "qlora"}
    (path / "adapter").mkdir(parents=True)
    save_adapter(model, path / "adapter", tokenizer=tiny_tokenizer(), note=note)
    (path / "manifest.json").write_text("{}")
    return model


def full_run(base, path, *, seed=0):
    model = moved(full.prepare(tiny_model(), MethodConfig(name="full")), seed=seed)
    note = {"base_model": str(base), "system": "Be brief.", "method": "full", "four_bit": False}
    save_whole(model, path / "model", tokenizer=tiny_tokenizer(), note=note)
    (path / "manifest.json").write_text("{}")
    return model


def loaded_from(name, *, dtype=torch.float32):
    return load_target(find_target(str(name)), dtype=dtype, device="cpu")


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.mark.parametrize("name", METHODS)
def test_folder_of_each_method_computes_what_was_trained_and_its_base_what_the_base_does(
    base, tmp_path, name
):
    model = run_folder(base, tmp_path, name)
    tuned = logits(model)
    target = find_target(str(tmp_path))
    assert (target.method, target.four_bit) == (NAMES.get(name, name), name == "qlora")
    loaded = loaded_from(tmp_path)
    assert has_base(loaded)
    assert torch.equal(logits(loaded.model), tuned)
    bare = load_model(target.base, dtype=torch.float32, device="cpu", four_bit=name == "qlora").model
    with as_base(loaded):
        assert torch.equal(logits(loaded.model), logits(bare))
    assert torch.equal(logits(loaded.model), tuned)
    assert not torch.equal(tuned, logits(bare))


@pytest.mark.parametrize("name", ["lora", "prefix", "adapter"])
def test_method_of_a_foreign_folder_is_known_by_its_type(base, tmp_path, name):
    run_folder(base, tmp_path, name)
    (tmp_path / "adapter" / NOTE).unlink()
    config = tmp_path / "adapter/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(base)}))
    assert find_target(str(tmp_path)).method == name


@pytest.mark.parametrize(("name", "kind"), [("prefix", "prefix "), ("adapter", ""), ("dora", "LoRA ")])
def test_tensor_that_is_missing_is_counted_for_every_method(base, tmp_path, name, kind):
    run_folder(base, tmp_path, name)
    file = tmp_path / "adapter/adapter_model.safetensors"
    weights = load_file(file)
    count = len(weights)
    weights.pop(sorted(weights)[-1])
    save_file(weights or {"other": torch.zeros(1)}, file)
    with pytest.raises(ModelError, match="does not fit") as caught:
        loaded_from(tmp_path)
    if name != "prefix":  # its only tensor is missed by peft itself
        assert str(caught.value).endswith(f"holds {count - 1} {kind}tensors where the model takes {count}")


def test_prefix_of_another_length_does_not_fit(base, tmp_path):
    run_folder(base, tmp_path, "prefix")
    config = tmp_path / "adapter/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_virtual_tokens": 6}))
    with pytest.raises(ModelError, match=r"does not fit .*: size mismatch for weight: .*5, 64.*6, 64"):
        loaded_from(tmp_path)


def test_without_the_4_bit_library_a_qlora_folder_says_what_to_install(base, tmp_path):
    run_folder(base, tmp_path, "qlora")
    child = (
        "import sys; sys.modules['bitsandbytes'] = None\n"
        "import torch\n"
        "from tunesmith.errors import ModelError\n"
        "from tunesmith.models.adapter import find_target, load_target\n"
        "try: load_target(find_target(sys.argv[1]), dtype=torch.float32, device='cpu')\n"
        "except ModelError as error: print(error, '|', error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", child, tmp_path], capture_output=True, text=True, check=True)
    assert "need bitsandbytes" in done.stdout
    assert "pip install bitsandbytes" in done.stdout


def test_fully_tuned_model_loads_alone_and_beside_its_base(base, tmp_path):
    model = full_run(base, tmp_path)
    tuned = logits(model)
    for name in (tmp_path, tmp_path / "model"):
        target = find_target(str(name))
        assert (target.adapter, target.method, target.system) == (None, "full", "Be brief.")
        loaded = loaded_from(name)
        assert has_base(loaded)
        assert torch.equal(logits(loaded.model), tuned)
        with as_base(loaded):
            assert torch.equal(logits(loaded.model), logits(tiny_model()))
        assert torch.equal(logits(loaded.model), tuned)


def test_swap_gives_back_every_bit_after_an_error_too(base, tmp_path):
    full_run(base, tmp_path)
    loaded = loaded_from(tmp_path)
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    places = {name: tensor.data_ptr() for name, tensor in loaded.model.state_dict().items()}
    with pytest.raises(KeyError), as_base(loaded):
        raise KeyError
    after = loaded.model.state_dict()
    assert {name: tensor.data_ptr() for name, tensor in after.items()} == places
    assert all(after[name].numpy().tobytes() == before[name].numpy().tobytes() for name in before)


def test_base_of_a_model_still_in_memory_is_had_in_its_own_number_type(base):
    source = find_model(str(base))
    loaded = load_model(source, dtype=torch.bfloat16, device="cpu")
    tuned = LoadedModel(moved(loaded.model), loaded.tokenizer, source, tuned_from=source)
    bare = load_model(source, dtype=torch.bfloat16, device="cpu").model
    with as_base(tuned):
        assert torch.equal(logits(tuned.model), logits(bare))
    assert not torch.equal(logits(tuned.model), logits(bare))


def test_tuned_model_whose_base_is_gone_still_answers(base, tmp_path):
    full_run(tmp_path / "gone", tmp_path)
    loaded = loaded_from(tmp_path)
    assert has_base(loaded)
    message = f"`{tmp_path / 'gone'}` is not a model folder"
    with pytest.raises(ModelError, match=re.escape(message)), as_base(loaded):
        pass


def test_base_that_became_another_model_is_refused(base, tmp_path):
    config = tiny_model().config
    config.num_hidden_layers = 3
    type(tiny_model())(config).save_pretrained(tmp_path / "other")
    tiny_tokenizer().save_pretrained(tmp_path / "other")
    full_run(tmp_path / "other", tmp_path)
    message = f"`{tmp_path / 'other'}` is not the base of `{tmp_path}/model`: they differ in model.layers.2"
    with pytest.raises(ModelError, match=f"^{re.escape(message)}") as caught, as_base(loaded_from(tmp_path)):
        pass
    assert caught.value.hint.startswith("put the model back that it was tuned from")


def test_model_of_no_known_base_has_none(base):
    loaded = loaded_from(base)
    assert not has_base(loaded)
    message = f"`{base}` was tuned from no known base"
    with pytest.raises(ModelError, match=f"^{re.escape(message)}$"), as_base(loaded):
        pass


def test_whole_folder_stores_tied_weights_once_and_no_path_of_this_machine(base, tmp_path):
    full_run(base, tmp_path)
    folder = tmp_path / "model"
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    config = (folder / "config.json").read_text()
    assert str(tmp_path) not in config
    assert str(base) not in config
    assert json.loads(config)["tie_word_embeddings"] is True
    model = loaded_from(tmp_path).model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert {file.name for file in tmp_path.iterdir()} == {"model", "manifest.json"}


def test_whole_folder_keeps_the_number_type_it_was_trained_in(base, tmp_path):
    full_run(base, tmp_path)
    stored = load_file(tmp_path / "model/model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


def test_whole_folder_is_replaced_when_a_run_saves_again(base, tmp_path):
    full_run(base, tmp_path)
    (tmp_path / "model/stale.txt").write_text("old")
    again = full_run(base, tmp_path, seed=1)
    assert not (tmp_path / "model/stale.txt").exists()
    assert torch.equal(logits(loaded_from(tmp_path).model), logits(again))


def test_fully_tuned_model_with_more_tokens_than_its_base(base, tmp_path):
    model = tiny_model()
    set_vocabulary(model, 279)
    tuned = moved(full.prepare(model, MethodConfig(name="full")))
    tokenizer = tiny_tokenizer(extra=NEW_TOKENS)
    note = {"base_model": str(base), "method": "full"}
    save_whole(tuned, tmp_path / "model", tokenizer=tokenizer, note=note)
    loaded = loaded_from(tmp_path / "model")
    assert vocabulary_rows(loaded.model) == 279
    assert torch.equal(logits(loaded.model, NEW_IDS), logits(tuned, NEW_IDS))
    with as_base(loaded):
        assert torch.equal(logits(loaded.model)[..., :272], logits(tiny_model()))
    assert torch.equal(logits(loaded.model, NEW_IDS), logits(tuned, NEW_IDS))


def test_added_rows_are_the_mean_of_the_others_each_time():
    first, second = tiny_model(), tiny_model()
    for model, seed in ((first, 1), (second, 2)):
        torch.manual_seed(seed)
        set_vocabulary(model, 280)
    embedding = first.get_input_embeddings().weight
    assert torch.equal(embedding, second.get_input_embeddings().weight)
    assert torch.equal(embedding[272:], embedding[:272].mean(dim=0).expand(8, -1))
    assert first.get_output_embeddings().weight is embedding


def grown_adapter(base, path, **settings):
    """What plain peft leaves after tokens were added to a base: its folder with the larger tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(279)
    chosen = {"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | settings
    tuned = moved(get_peft_model(model, LoraConfig(**chosen)))
    tuned.save_pretrained(path)
    tiny_tokenizer(extra=NEW_TOKENS).save_pretrained(path)
    return tuned


NOTICES = (
    "ignore:Setting `save_embedding_layers` to `True`:UserWarning",
    "ignore:Model has `tie_word_embeddings=True`:UserWarning",
)


@pytest.mark.filterwarnings(*NOTICES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"trainable_token_indices": list(range(272, 279))},
        {"trainable_token_indices": {"embed_tokens": list(range(272, 279))}},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
    ],
    ids=["resized", "token-rows", "named-token-rows", "both-ends", "embedding", "low-rank-embedding"],
)
def test_foreign_adapter_brings_the_rows_of_its_added_tokens(base, tmp_path, settings):
    tuned = grown_adapter(base, tmp_path, **settings)
    loaded = loaded_from(tmp_path)
    assert vocabulary_rows(loaded.model) == 279
    torch.testing.assert_close(logits(loaded.model, NEW_IDS), logits(tuned, NEW_IDS), rtol=0, atol=0)
    with as_base(loaded):
        torch.testing.assert_close(logits(loaded.model)[..., :272], logits(tiny_model()), rtol=0, atol=0)


@pytest.mark.filterwarnings(*NOTICES)
def test_foreign_adapter_that_replaces_the_base_s_own_rows_is_refused(base, tmp_path):
    """Switched off, it would leave another base behind."""
    grown_adapter(base, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    weights = load_file(file)
    for name in weights:
        if "embed" in name or "lm_head" in name:
            weights[name][7] += 0.1
    save_file(weights, file)
    with pytest.raises(ModelError, match=r": it replaces weights of the base itself, in its embedding$"):
        loaded_from(tmp_path)


@pytest.mark.filterwarnings(*NOTICES)
def test_added_tokens_without_weights_are_refused(base, tmp_path):
    grown_adapter(base, tmp_path, trainable_token_indices=[272, 273])
    file = tmp_path / "adapter_model.safetensors"
    save_file({n: w for n, w in load_file(file).items() if "base_layer" not in n}, file)
    message = (
        "the adapter's tokenizer has 279 tokens and its base 272, and the folder holds no weights for "
        "5 of the new ones, such as `<|new15|>`"
    )
    with pytest.raises(ModelError, match=f"^{re.escape(message)}$") as caught:
        loaded_from(tmp_path)
    assert "`modules_to_save` or `trainable_token_indices`" in caught.value.hint


def test_base_folder_with_added_tokens_carries_an_adapter(tmp_path):
    model = tiny_model()
    set_vocabulary(model, 279)
    model.save_pretrained(tmp_path / "base")
    tokenizer = tiny_tokenizer(extra=NEW_TOKENS)
    tokenizer.save_pretrained(tmp_path / "base")
    tuned = moved(lora.prepare(model, MethodConfig(rank=4)))
    save_adapter(tuned, tmp_path / "a", tokenizer=tokenizer, note={"base_model": str(tmp_path / "base")})
    assert not any("embed" in name for name in load_file(tmp_path / "a/adapter_model.safetensors"))
    loaded = loaded_from(tmp_path / "a")
    assert torch.equal(logits(loaded.model, NEW_IDS), logits(tuned, NEW_IDS))
    assert len(loaded.tokenizer) == 279

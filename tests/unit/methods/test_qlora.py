"""QLoRA: LoRA on a 4-bit base that stays as it is, bit for bit."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tiny import tiny_model, tiny_tokenizer
from tunesmith.config import MethodConfig
from tunesmith.errors import ConfigError, ModelError
from tunesmith.methods import lora, qlora
from tunesmith.models.find import find_model
from tunesmith.models.four_bit import dequantized
from tunesmith.models.load import load_model

IDS = torch.tensor([[1, 40, 50, 60, 2, 0, 9]])
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
ALL_LINEAR = ATTENTION | {"gate_proj", "up_proj", "down_proj"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Llama with widths of whole quantization blocks, so that every layer is held in 4 bit."""
    path = tmp_path_factory.mktemp("models") / "wide-llama"
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=272, num_key_value_heads=1, tie_word_embeddings=True, **sizes)
    LlamaForCausalLM(config).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def base_of(folder, *, dtype=torch.float32):
    return load_model(find_model(str(folder)), dtype=dtype, device="cpu", four_bit=True).model


def prepared(folder, *, seed=0, dtype=torch.float32, **settings):
    base = base_of(folder, dtype=dtype)
    torch.manual_seed(seed)
    return qlora.prepare(base, MethodConfig(name="qlora", **settings))


def adapted(model):
    """Last names of the layers that carry an adapter."""
    return {name.split(".")[-4] for name, _ in model.named_parameters() if "lora_A" in name}


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def stir(model):
    """Weights in every adapter, B too, as after a long training."""
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)


def trained(model, *, steps=3):
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model.train()(input_ids=IDS, labels=IDS).loss
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
        optimizer.zero_grad()
    return losses


@pytest.mark.parametrize(
    ("target_modules", "layers"),
    [
        ("all-linear", ALL_LINEAR),
        ("attention", ATTENTION),
        (["q_proj", "down_proj"], {"q_proj", "down_proj"}),
    ],
)
def test_adapters_sit_on_the_asked_layers_and_on_no_others(folder, target_modules, layers):
    assert adapted(prepared(folder, target_modules=target_modules)) == layers


def test_unknown_layer_is_named_with_the_nearest_one(folder):
    with pytest.raises(ConfigError, match=r"has no linear layer called q_prj$") as caught:
        prepared(folder, target_modules=["q_prj"])
    assert caught.value.hint == "nearest: q_proj"


@pytest.mark.parametrize("variant", ["plain", "rslora"])
def test_before_training_the_logits_are_those_of_the_four_bit_base_exactly(folder, variant):
    assert torch.equal(logits(prepared(folder, variant=variant)), logits(base_of(folder)))


def test_dora_before_training_is_the_four_bit_base_up_to_rounding(folder):
    """It divides each row by its norm and multiplies it again."""
    found, expected = logits(prepared(folder, variant="dora")), logits(base_of(folder))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_adapter_starts_as_the_one_of_lora(folder):
    ours = {name: p for name, p in prepared(folder, seed=3).named_parameters() if "lora_" in name}
    base = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(3)
    theirs = dict(lora.prepare(base, MethodConfig()).named_parameters())
    assert ours
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


@pytest.mark.parametrize("variant", ["plain", "rslora", "dora"])
def test_training_lowers_the_loss_and_changes_no_bit_of_the_base(folder, variant):
    model = prepared(folder, variant=variant)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = trained(model)
    assert losses[-1] < losses[0]
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("lora_" in name for name in changed)


def test_gradient_reaches_the_adapters_and_nothing_else(folder):
    model = prepared(folder)
    stir(model)
    model.train()(input_ids=IDS, labels=IDS).loss.backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {name for name, _ in model.named_parameters() if "lora_" in name}


def test_gradient_is_that_of_lora_on_the_dequantized_weights(folder):
    """The base is a constant; in which form it is held makes no difference."""
    found = []
    for base in (base_of(folder), dequantized(base_of(folder), dtype=torch.float32)):
        model = lora.prepare(base, MethodConfig(rank=4))
        stir(model)
        model.train()(input_ids=IDS, labels=IDS).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    held, plain = found
    assert held.keys() == plain.keys()
    for name, gradient in held.items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_are_float32_and_nothing_else_is_cast_up(folder, dtype):
    model = prepared(folder, dtype=dtype)
    types = {name: p.dtype for name, p in model.named_parameters()}
    assert {t for name, t in types.items() if "lora_" in name} == {torch.float32}
    assert {t for name, t in types.items() if "lora_" not in name} == {torch.uint8, dtype}


@pytest.mark.parametrize("variant", ["plain", "dora"])
def test_saved_adapter_on_a_four_bit_base_again_gives_the_same_bits(folder, variant, tmp_path):
    model = prepared(folder, variant=variant)
    trained(model)
    expected = logits(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(base_of(folder), tmp_path)), expected)


def test_model_that_is_not_in_four_bit_is_refused():
    message = "^QLoRA trains on 4-bit weights, and LlamaForCausalLM has no layer in 4 bit$"
    with pytest.raises(ModelError, match=message) as caught:
        qlora.prepare(tiny_model(), MethodConfig(name="qlora"))
    assert caught.value.hint == "train it with `--method lora`"

"""Our LoRA and prefix against the same made with peft directly: same weights, same logits, same gradients."""

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from tiny import tiny_model
from tunesmith.config import MethodConfig
from tunesmith.methods import lora, prefix
from tunesmith.models.find import EMBEDDED, find_model
from tunesmith.models.generate import Decoding, generate_ids
from tunesmith.models.load import load_model

IDS_BT = torch.tensor([[1, 40, 50, 60, 2, 7, 9], [1, 9, 8, 7, 2, 0, 0]])
MASK_BT = torch.tensor([[1] * 7, [1, 1, 1, 1, 1, 0, 0]])
LABELS_BT = IDS_BT.where(MASK_BT.bool(), -100)
CLOSE = {"rtol": 0, "atol": 1e-6}
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VIRTUAL_TOKENS = 6


def gpt2():
    """Its linear layers hold their weights transposed."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 272, "bos_token_id": 1, "eos_token_id": 2, "n_positions": 64}
    dropout = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, **sizes, **dropout)).eval()


def with_same_weights(ours, theirs):
    """Both with weights as after a long training, and the same ones."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.load_state_dict(ours.state_dict())


def assert_same(ours, theirs):
    with_same_weights(ours, theirs)
    outputs = [
        model.train()(input_ids=IDS_BT, attention_mask=MASK_BT, labels=LABELS_BT) for model in (ours, theirs)
    ]
    scored_BT = MASK_BT.bool()
    torch.testing.assert_close(outputs[0].logits[scored_BT], outputs[1].logits[scored_BT], **CLOSE)
    gradients = []
    for model, output in zip((ours, theirs), outputs, strict=True):
        output.loss.backward()
        gradients.append({name: each.grad for name, each in model.named_parameters() if each.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert gradient.any(), name
        torch.testing.assert_close(gradient, gradients[1][name], **CLOSE, msg=name)


@pytest.mark.parametrize(
    ("variant", "theirs"),
    [("plain", {}), ("rslora", {"use_rslora": True}), ("dora", {"use_dora": True})],
)
def test_lora_and_its_variants_are_peft_s(variant, theirs):
    settings = MethodConfig(rank=4, alpha=12, variant=variant)
    config = LoraConfig(r=4, lora_alpha=12, target_modules=ALL_LINEAR, task_type="CAUSAL_LM", **theirs)
    assert_same(lora.prepare(tiny_model(), settings), get_peft_model(tiny_model(), config))


def test_lora_on_transposed_layers_is_peft_s():
    names = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
    config = LoraConfig(r=4, lora_alpha=12, target_modules=names, fan_in_fan_out=True, task_type="CAUSAL_LM")
    assert_same(lora.prepare(gpt2(), MethodConfig(rank=4, alpha=12)), get_peft_model(gpt2(), config))


@pytest.mark.parametrize(("variant", "scale"), [("plain", 12 / 4), ("rslora", 12 / 2)])
def test_lora_adds_the_scaled_product_of_the_papers(variant, scale):
    """x W' + scale x A' B', scale alpha / r (2106.09685) or alpha / sqrt(r) (2312.03732)."""
    model = lora.prepare(tiny_model(), MethodConfig(rank=4, alpha=12, variant=variant))
    layer = model.get_submodule("base_model.model.model.layers.0.mlp.up_proj")
    down_RD, up_OR = (part["default"].weight for part in (layer.lora_A, layer.lora_B))
    torch.nn.init.normal_(up_OR)
    hidden_BD = torch.randn(3, 32)
    expected = hidden_BD @ (layer.base_layer.weight + scale * up_OR @ down_RD).T
    torch.testing.assert_close(layer(hidden_BD), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("build", [tiny_model, gpt2])
def test_prefix_is_peft_s(build):
    settings = MethodConfig(name="prefix", num_virtual_tokens=VIRTUAL_TOKENS)
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS)
    assert_same(prefix.prepare(build(), settings), get_peft_model(build(), config))


@pytest.mark.real_model
def test_prefix_of_the_embedded_model_answers_the_same_from_its_folder_with_peft_alone(tmp_path):
    source = find_model(EMBEDDED)
    loaded = load_model(source, dtype=torch.bfloat16, device="cpu")
    ours = prefix.prepare(loaded.model, MethodConfig(name="prefix", num_virtual_tokens=VIRTUAL_TOKENS))
    ours.save_pretrained(tmp_path)
    fresh = load_model(source, dtype=torch.bfloat16, device="cpu").model
    prompts = [loaded.tokenizer(text).input_ids for text in ("The capital of France is", "One, two,")]
    settings = {"decoding": Decoding(max_new_tokens=6), "stop_ids": [2], "pad_id": loaded.pad_id}
    theirs = PeftModel.from_pretrained(fresh, tmp_path)
    answers = [generate_ids(model.eval(), prompts, **settings) for model in (ours, theirs)]
    assert answers[0] == answers[1]
    assert all(answers[0])

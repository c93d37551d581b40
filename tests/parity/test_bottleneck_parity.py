"""Our tuner against the papers' formula, written out around the untouched blocks of two architectures."""

import pytest
import torch
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from tiny import tiny_model
from tunesmith.config import MethodConfig
from tunesmith.methods import adapter

IDS = torch.tensor([[1, 40, 50, 60, 2, 9, 7], [3, 4, 5, 6, 7, 8, 9]])
# The same sums in float64 in the same order; far below the promised 1e-6.
TOLERANCE = 1e-12
NONLINEARITY = {"houlsby": functional.gelu, "pfeiffer": functional.relu}


def tiny_gpt2():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=272, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    return GPT2LMHeadModel(config).eval()


def llama_logits(base, change):
    """Logits of a Llama in which `change(path, y)` alters the output of each sub-layer."""
    body = base.model
    x_BTD = body.embed_tokens(IDS)
    rotary = body.rotary_emb(x_BTD, position_ids=torch.arange(IDS.shape[1])[None])
    for number, block in enumerate(body.layers):
        attended_BTD, _ = block.self_attn(
            block.input_layernorm(x_BTD), position_embeddings=rotary, attention_mask=None
        )
        x_BTD = x_BTD + change(f"model.layers.{number}.self_attn.o_proj", attended_BTD)
        fed_BTD = block.mlp(block.post_attention_layernorm(x_BTD))
        x_BTD = x_BTD + change(f"model.layers.{number}.mlp.down_proj", fed_BTD)
    return base.lm_head(body.norm(x_BTD))


def gpt2_logits(base, change):
    """The same for a GPT-2."""
    body = base.transformer
    x_BTD = body.wte(IDS) + body.wpe(torch.arange(IDS.shape[1]))
    for number, block in enumerate(body.h):
        attended_BTD, _ = block.attn(block.ln_1(x_BTD))
        x_BTD = x_BTD + change(f"transformer.h.{number}.attn.c_proj", attended_BTD)
        x_BTD = x_BTD + change(f"transformer.h.{number}.mlp.c_proj", block.mlp(block.ln_2(x_BTD)))
    return base.lm_head(body.ln_f(x_BTD))


def written_out(weights, act):
    """y + W_up act(W_down y + b_down) + b_up, where there are weights for the path."""

    def change(path, y_BTD):
        if f"{path}.down.weight" not in weights:
            return y_BTD
        inner = act(y_BTD @ weights[f"{path}.down.weight"].T + weights[f"{path}.down.bias"])
        return y_BTD + inner @ weights[f"{path}.up.weight"].T + weights[f"{path}.up.bias"]

    return change


def short(name):
    """Path of the wrapped layer, `down` or `up`, and the tensor's name."""
    return name.removeprefix("base_model.model.").replace("bottleneck_", "").replace(".default.", ".")


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
@pytest.mark.parametrize(
    ("make", "reference"),
    [(tiny_model, llama_logits), (tiny_gpt2, gpt2_logits)],
    ids=["llama", "gpt2"],
)
def test_logits_and_gradients_equal_the_formula_written_out(make, reference, placement):
    torch.manual_seed(1)
    model = adapter.prepare(
        make().double(), MethodConfig(name="adapter", placement=placement, reduction_factor=5)
    )
    learned = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    for weight in learned.values():
        torch.nn.init.normal_(weight, std=0.3)
    copies = {short(name): weight.detach().clone().requires_grad_() for name, weight in learned.items()}
    assert len(copies) == (16 if placement == "houlsby" else 8)

    logits = model(input_ids=IDS).logits
    expected = reference(make().double(), written_out(copies, NONLINEARITY[placement]))
    assert torch.allclose(logits, expected, rtol=0, atol=TOLERANCE)
    assert not torch.allclose(logits, make().double()(input_ids=IDS).logits, atol=1e-3)

    target = torch.randn_like(logits)
    (logits * target).sum().backward()
    (expected * target).sum().backward()
    for name, weight in learned.items():
        own, other = weight.grad, copies[short(name)].grad
        assert other.abs().max() > 1e-3
        assert torch.allclose(own, other, rtol=1e-10, atol=TOLERANCE), name

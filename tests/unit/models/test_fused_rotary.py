"""Turned queries and keys against those of transformers."""

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from tunesmith.models.fused_rotary import turned

HEADS, KEYS, WIDTH = 3, 2, 8


def angles():
    config = LlamaConfig(hidden_size=WIDTH, num_attention_heads=1)
    positions_BT = torch.tensor([[3, 0, 1, 2, 40]])
    cos_BTC, sin_BTC = LlamaRotaryEmbedding(config)(torch.zeros(1), positions_BT)
    return cos_BTC.double(), sin_BTC.double()


def test_parts_are_turned_as_transformers_turns_them():
    joint_BTO = torch.randn(2, 5, (HEADS + 2 * KEYS) * WIDTH, dtype=torch.float64)
    cos_BTC, sin_BTC = angles()
    heads = joint_BTO.unflatten(-1, (-1, WIDTH)).transpose(1, 2)
    query, key, value = heads.split((HEADS, KEYS, KEYS), dim=1)
    wanted = (*apply_rotary_pos_emb(query, key, cos_BTC, sin_BTC), value)
    for found, expected in zip(turned(joint_BTO, cos_BTC, sin_BTC, HEADS, KEYS), wanted, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-14, rtol=1e-14)


def test_gradients_are_those_of_finite_differences():
    joint_BTO = torch.randn(2, 5, (HEADS + 2 * KEYS) * WIDTH, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda joint: turned(joint, *angles(), HEADS, KEYS), joint_BTO)

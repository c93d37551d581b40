"""The rehearsal against the same training on real tensors, and the laws of its figures."""

from dataclasses import replace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
)

from tunesmith.config import MethodConfig
from tunesmith.errors import ConfigError
from tunesmith.hardware import peak_memory_bytes
from tunesmith.methods import METHODS, prepared, trainable
from tunesmith.models.checkpointing import enable_checkpointing
from tunesmith.models.forward import loss_sum
from tunesmith.models.head_loss import CHUNK_BYTES
from tunesmith.planning.counting import LiveBytes
from tunesmith.planning.rehearse import Setup, rehearse

SMALL = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 128,
}
CONFIGS = {
    "llama": LlamaConfig(**SMALL),
    "qwen2": Qwen2Config(**SMALL, tie_word_embeddings=True),
    "mistral": MistralConfig(**SMALL, head_dim=16),
    "gemma2": Gemma2Config(**SMALL, head_dim=16),
    "gpt2": GPT2Config(
        vocab_size=96, n_positions=128, n_embd=64, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=2
    ),
}
LENGTH, ROWS = 24, 2


def setup(*, method="lora", family="llama", **changes):
    chosen = Setup(
        config=CONFIGS[family],
        method=MethodConfig.model_validate({"name": method}),
        rows=ROWS,
        length_tokens=LENGTH,
        scored_tokens=ROWS * LENGTH // 2,
        device="cpu",
        dtype="float32",
        is_checkpointed=False,
        optim="adamw_torch",
        evaluation_rows=4,
        answer_tokens=8,
    )
    return replace(chosen, **changes)


def deep(family):
    """The same with more layers; those of Gemma 2 are alike in pairs."""
    options = {**CONFIGS[family].to_dict(), "num_hidden_layers": 6 if family == "gemma2" else 7}
    options.pop("layer_types", None)
    return type(CONFIGS[family])(**options)


def real_peak(planned):
    """Most bytes of tensors beside weights and gradients in a real micro-batch on top of gradients."""
    torch.manual_seed(0)
    model = prepared(AutoModelForCausalLM.from_config(planned.config), planned.method)
    if planned.is_checkpointed:
        enable_checkpointing(model)
    model.train()
    shape_BT = (planned.rows, planned.length_tokens)
    with LiveBytes() as count:
        count.hold([*model.parameters(), *model.buffers()])
        for _ in range(2):
            count.take_peak()
            held = count.live_bytes
            ids_BT = torch.zeros(shape_BT, dtype=torch.long)
            predicts_BT = torch.zeros(shape_BT, dtype=torch.bool)
            predicts_BT[:, : planned.length_tokens // 2] = True
            loss = loss_sum(model, ids_BT, predicts_BT)
            del ids_BT, predicts_BT
            loss.backward()
            del loss
    return count.take_peak() - held


def dynamic(memory):
    return memory.activations_bytes + memory.logits_bytes


# Prefix-tuning refuses models of which a layer sees the nearest tokens alone.
REAL = [
    (method, family)
    for method in ("full", "lora", "adapter", "prefix")
    for family in CONFIGS
    if method != "prefix" or family in ("llama", "qwen2", "gpt2")
]


@pytest.mark.parametrize(
    ("method", "family", "is_checkpointed"),
    [(*pair, False) for pair in REAL] + [(*pair, True) for pair in REAL if pair[1] in ("llama", "gpt2")],
)
def test_the_rehearsal_holds_to_the_byte_what_a_real_micro_batch_holds(method, family, is_checkpointed):
    planned = setup(method=method, family=family, is_checkpointed=is_checkpointed)
    assert dynamic(rehearse(planned)) == real_peak(planned)


def test_what_a_method_refuses_is_refused_in_the_plan():
    with pytest.raises(ConfigError, match="prefix-tuning needs layers that all see all tokens"):
        rehearse(setup(method="prefix", family="mistral"))


@pytest.mark.parametrize(
    ("method", "family", "is_checkpointed"),
    [
        ("full", "gemma2", False),
        ("full", "llama", True),
        ("lora", "qwen2", True),
        ("lora", "mistral", False),
        ("qlora", "llama", False),
        ("adapter", "gpt2", True),
        ("prefix", "llama", False),
    ],
)
def test_a_deep_model_is_rehearsed_with_few_layers(family, method, is_checkpointed):
    planned = setup(method=method, family=family, is_checkpointed=is_checkpointed, config=deep(family))
    continued, whole = rehearse(planned), rehearse(planned, is_whole=True)
    assert continued == whole


@pytest.mark.parametrize("method", ["full", "lora", "qlora", "prefix", "adapter"])
def test_parameters_are_counted_as_they_are(method):
    planned = setup(method=method, config=deep("llama"))
    base = AutoModelForCausalLM.from_config(planned.config)
    whole = base.num_parameters()
    model = METHODS["lora" if method == "qlora" else method].prepare(base, planned.method)
    memory = rehearse(planned)
    assert memory.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert memory.trainable_parameters == trainable(model)
    if method != "full":
        assert memory.adapter_bytes >= 4 * (memory.parameters - whole) > 0
        assert memory.gradients_bytes == 4 * memory.trainable_parameters
        assert memory.optimizer_bytes == 8 * memory.trainable_parameters


def test_four_bit_weights_take_4_127_bits_each():
    planned = setup(
        method="qlora", config=LlamaConfig(**{**SMALL, "hidden_size": 1024, "intermediate_size": 4096})
    )
    memory = rehearse(planned)
    whole = rehearse(replace(planned, method=MethodConfig(name="lora")))
    packed = 3 * (1024 * (1024 * 2 + 512 * 2 + 4096 * 3))
    kept = whole.weights_bytes - 4 * packed
    assert memory.weights_bytes - kept == packed // 2
    bits = 8 * (memory.weights_bytes - kept + memory.quantization_bytes) / packed
    assert bits == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=0.03)
    assert memory.trainable_parameters == whole.trainable_parameters


def test_dora_on_four_bit_weights_can_be_planned():
    plain = setup(method="qlora")
    dora = replace(plain, method=MethodConfig(name="qlora", variant="dora"))
    assert rehearse(plain).trainable_parameters < rehearse(dora).trainable_parameters
    assert rehearse(plain).activations_bytes < rehearse(dora).activations_bytes


@pytest.mark.parametrize("method", ["full", "qlora"])
def test_more_takes_more_and_checkpointing_less(method):
    # Layers must outweigh the output layer for checkpointing to show.
    small = setup(method=method, config=deep("llama"), scored_tokens=4)
    longer = replace(small, length_tokens=2 * LENGTH)
    more = replace(small, rows=2 * ROWS)
    assert dynamic(rehearse(small)) < dynamic(rehearse(longer))
    assert dynamic(rehearse(small)) < dynamic(rehearse(more))
    assert dynamic(rehearse(replace(small, is_checkpointed=True))) < dynamic(rehearse(small))
    assert rehearse(small).flops_per_micro_batch < rehearse(more).flops_per_micro_batch
    assert rehearse(replace(small, answer_tokens=0)).evaluation_bytes <= rehearse(small).evaluation_bytes


def test_scored_tokens_alone_have_logits():
    config = LlamaConfig(**{**SMALL, "vocab_size": 8192})
    few, many = (rehearse(setup(config=config, scored_tokens=count)) for count in (8, 40))
    assert few.activations_bytes == pytest.approx(many.activations_bytes, rel=0.001)
    assert 4 * 32 * 8192 <= many.logits_bytes - few.logits_bytes < 1.1 * 4 * 32 * 8192
    assert dynamic(few) < dynamic(many)


def test_beyond_a_chunk_more_scored_tokens_have_no_more_logits():
    """What still grows with them is as wide as the hidden states."""
    config = LlamaConfig(**{**SMALL, "vocab_size": 2**18, "max_position_embeddings": 4096})
    rows = CHUNK_BYTES // (4 * 2**18)
    few, many = (
        rehearse(setup(config=config, scored_tokens=count, length_tokens=8 * rows, answer_tokens=0))
        for count in (2 * rows, 12 * rows)
    )
    assert few.logits_bytes == pytest.approx(CHUNK_BYTES, rel=0.02)
    assert 0 < many.logits_bytes - few.logits_bytes < 3 * 4 * 10 * rows * 64
    assert many.evaluation_bytes - few.evaluation_bytes < 4 * 4 * 10 * rows * 64


def test_a_gpu_holds_no_runtime_and_no_paged_states():
    planned = setup(device="cuda", dtype="bfloat16", optim="paged_adamw_32bit", method="qlora")
    memory = rehearse(planned)
    assert memory.runtime_bytes == memory.optimizer_bytes == memory.workspace_bytes == 0
    assert memory.gradients_bytes == 4 * memory.trainable_parameters


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_a_cpu_does_in_bfloat16_is_in_no_plan_for_a_gpu(method, is_checkpointed, monkeypatch):
    there, here = (
        setup(method=method, device=device, dtype="bfloat16", is_checkpointed=is_checkpointed)
        for device in ("cuda", "cpu")
    )
    planned, planned_here = rehearse(there), rehearse(here)
    monkeypatch.setattr("tunesmith.models.fused_product._is_cast", lambda states: False)
    assert rehearse(there) == planned
    # States are float32 on a CPU.
    assert dynamic(rehearse(here)) < dynamic(planned_here)


def test_weights_that_learn_in_16_bit_take_half_of_everything():
    masters, short = (
        rehearse(setup(method="full", device="cuda", dtype=dtype)) for dtype in ("float32", "bfloat16")
    )
    for term in ("gradients_bytes", "optimizer_bytes"):
        assert getattr(masters, term) == 2 * getattr(short, term) > 0
    # The frequencies of the positions stay in float32.
    assert masters.weights_bytes == pytest.approx(2 * short.weights_bytes, rel=1e-3)


def test_a_loose_heap_is_part_of_the_plan():
    small, loose = (rehearse(setup(has_small_heap=choice)) for choice in (True, False))
    assert loose.workspace_bytes == round(1.2 * dynamic(small)) and small.workspace_bytes == 0


def test_no_memory_is_taken_for_a_large_model():
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
    )
    planned = setup(method="full", config=config, device="cuda", length_tokens=128, scored_tokens=128)
    before = peak_memory_bytes("cpu")
    memory = rehearse(planned)
    assert memory.parameters == 6_738_415_616
    # Master weights, gradients and both moments in float32; arXiv:1910.02054 section 3.1 counts the same 16.
    held = memory.weights_bytes + memory.gradients_bytes + memory.optimizer_bytes
    assert held >= 16 * memory.parameters
    assert peak_memory_bytes("cpu") - before < 200_000_000


def test_a_packed_model_keeps_its_file_mapped_on_cpu():
    on_cpu = rehearse(setup(method="qlora"))
    on_gpu = rehearse(setup(method="qlora", device="cuda", optim="adamw_torch"))
    packed = 3 * 64 * (64 * 2 + 32 * 2 + 128 * 3)
    assert (on_cpu.workspace_bytes, on_gpu.workspace_bytes) == (4 * packed, 0)
    assert on_cpu.evaluation_bytes - 4 * packed > 0
    assert rehearse(setup()).workspace_bytes == 0

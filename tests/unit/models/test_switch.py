"""Adapters that share one base answer as each does alone, in turn and side by side in one batch."""

import re

import pytest
import torch

from tiny import tiny_model_folder, tiny_tokenizer
from tunesmith.config import MethodConfig
from tunesmith.errors import ModelError
from tunesmith.methods import adapter, lora, prefix, qlora
from tunesmith.models.adapter import find_target, load_target, save_adapter, save_whole
from tunesmith.models.find import find_model
from tunesmith.models.generate import Decoding, generate_ids
from tunesmith.models.load import load_model
from tunesmith.models.switch import AdapterSwitch, Request, load_switch

PROMPTS = ([1, 40, 50, 60, 8], [1, 7], [9] * 12, [30, 31, 32])
NAMES = ("first", "v1.second", "third")
PREPARE = {
    "lora": lora.prepare,
    "qlora": qlora.prepare,
    "prefix": prefix.prepare,
    "adapter": adapter.prepare,
}
GREEDY = Decoding(max_new_tokens=12)
KINDS = {
    "lora": MethodConfig(rank=4),
    "dora": MethodConfig(rank=4, variant="dora"),
    "qlora": MethodConfig(name="qlora", rank=4),
    "prefix": MethodConfig(name="prefix", num_virtual_tokens=4),
    "adapter": MethodConfig(name="adapter", reduction_factor=4),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("models") / "base")


def adapter_folder(base, folder, settings, *, seed):
    """An adapter whose weights have moved far."""
    is_four_bit = settings.name == "qlora"
    source = find_model(str(base))
    loaded = load_model(source, dtype=torch.float32, device="cpu", four_bit=is_four_bit)
    torch.manual_seed(seed)
    model = PREPARE[settings.name](loaded.model, settings)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight), alpha=4 if settings.name == "prefix" else 0.4)
    note = {"base_model": str(base), "method": settings.name, "four_bit": is_four_bit}
    save_adapter(model, folder, tokenizer=tiny_tokenizer(), note=note)
    return find_target(str(folder))


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def targets(kind, base, tmp_path_factory):
    """Three adapters of the kind, of unlike size where the method allows."""
    folder = tmp_path_factory.mktemp(kind)
    sizes = {"lora": {"rank": 2}, "prefix": {"num_virtual_tokens": 7}, "adapter": {"placement": "pfeiffer"}}
    second = KINDS[kind].model_copy(update=sizes.get(kind, {}))
    settings = (KINDS[kind], second, KINDS[kind])
    return {
        name: adapter_folder(base, folder / name, chosen, seed=seed)
        for seed, (name, chosen) in enumerate(zip(NAMES, settings, strict=True))
    }


@pytest.fixture(scope="module")
def switch(targets):
    return load_switch(targets, dtype=torch.float32, device="cpu")


def alone(target):
    """Greedy tokens of a target that is loaded by itself."""
    loaded = load_target(target, dtype=torch.float32, device="cpu")
    return generate_ids(loaded.model, PROMPTS, decoding=GREEDY, stop_ids=(2,), pad_id=0)


@pytest.fixture(scope="module")
def expected(targets, base, kind):
    found = {name: alone(target) for name, target in targets.items()}
    bare = load_model(find_model(str(base)), dtype=torch.float32, device="cpu", four_bit=kind == "qlora")
    return found | {"base": generate_ids(bare.model, PROMPTS, decoding=GREEDY, stop_ids=(2,), pad_id=0)}


def answer(switch: AdapterSwitch, requests, **arguments):
    stop_ids = dict.fromkeys((*switch.names, "base"), (2,))
    return switch.answer(requests, decoding=GREEDY, stop_ids=stop_ids, **arguments)


def test_adapters_differ_from_each_other_and_from_the_base(expected):
    answers = [str(found) for found in expected.values()]
    assert len(set(answers)) == 4


def test_switched_to_each_adapter_answers_as_it_does_alone(switch, expected):
    for name in ("third", "base", "first", "v1.second", "base", "third"):
        switch.switch(name)
        assert switch.active == name
        found = generate_ids(switch.model, PROMPTS, decoding=GREEDY, stop_ids=(2,), pad_id=0)
        assert found == expected[name]


@pytest.mark.parametrize("batch_rows", [1, 3, 16])
def test_mixed_requests_get_what_each_adapter_says_alone(switch, expected, batch_rows):
    order = [(name, number) for number in range(len(PROMPTS)) for name in ("base", *NAMES)]
    requests = [Request(name, PROMPTS[number]) for name, number in order]
    switch.switch("base")
    found = answer(switch, requests, batch_rows=batch_rows)
    assert found == [expected[name][number] for name, number in order]
    assert switch.active == "base"


def test_one_batch_holds_several_adapters_where_the_method_allows(switch, kind):
    assert switch.is_mixable == (kind in ("lora", "qlora", "adapter"))
    rows = []
    answer(switch, [Request(name, PROMPTS[0]) for name in NAMES], on_rows=rows.append)
    assert rows == ([3] if switch.is_mixable else [1, 1, 1])


def test_adapters_with_other_ends_of_turn_are_not_cut_by_each_other(switch, expected):
    stop = expected["first"][0][0]
    ends = {"first": (2,), "v1.second": (2, stop), "third": (2,), "base": (2,)}
    requests = [Request("first", PROMPTS[0]), Request("v1.second", PROMPTS[0])]
    found = switch.answer(requests, decoding=GREEDY, stop_ids=ends)
    assert found[0] == expected["first"][0]
    whole = expected["v1.second"][0]
    assert found[1] == (whole[: whole.index(stop)] if stop in whole else whole)


def test_switching_loads_and_moves_no_weight(switch):
    before = {name: (id(p), p.data_ptr()) for name, p in switch.model.named_parameters()}
    for name in (*NAMES, "base", NAMES[0]):
        switch.switch(name)
        after = {name: (id(p), p.data_ptr()) for name, p in switch.model.named_parameters()}
        assert after == before


def test_base_weights_are_in_memory_once(switch, base):
    bare = load_model(find_model(str(base)), dtype=torch.float32, device="cpu").model
    kinds = ("lora_", "bottleneck_", "prompt_encoder")
    parameters = switch.model.named_parameters()
    own = sum(p.numel() for name, p in parameters if not any(kind in name for kind in kinds))
    assert own <= sum(p.numel() for p in bare.parameters())


def test_unknown_adapter_is_named_and_the_others_are_listed(switch):
    with pytest.raises(ModelError, match=r"^no adapter is called `fourth`$") as caught:
        answer(switch, [Request("fourth", PROMPTS[0])])
    assert caught.value.hint == "there are: first, v1.second, third, base"


def test_no_requests_have_no_answers(switch):
    assert answer(switch, []) == []


@pytest.fixture
def lora_target(base, tmp_path):
    return adapter_folder(base, tmp_path / "lora", KINDS["lora"], seed=1)


def refusal(targets):
    with pytest.raises(ModelError) as caught:
        load_switch(targets, dtype=torch.float32, device="cpu")
    return str(caught.value), caught.value.hint


def test_adapters_of_other_bases_are_refused(lora_target, base, tmp_path):
    other = tiny_model_folder(tmp_path / "other", seed=1)
    stranger = adapter_folder(other, tmp_path / "stranger", KINDS["lora"], seed=1)
    message, hint = refusal({"a": lora_target, "b": stranger})
    assert message == f"adapters on one base must be alike: the base of `a` is {base}, of `b` {other}"
    assert hint.startswith("leave one of them out")


def test_adapters_of_other_methods_are_refused(lora_target, base, tmp_path):
    other = adapter_folder(base, tmp_path / "prefix", KINDS["prefix"], seed=1)
    assert refusal({"a": lora_target, "b": other})[0].endswith("the method of `a` is lora, of `b` prefix")


def test_adapters_of_a_whole_and_a_4_bit_base_are_refused(lora_target, base, tmp_path):
    other = adapter_folder(base, tmp_path / "qlora", KINDS["qlora"], seed=1)
    message, _ = refusal({"a": lora_target, "b": other})
    assert message.endswith("the base's number type of `a` is whole, of `b` 4 bit")


def test_model_without_adapter_is_refused(lora_target, base):
    message, hint = refusal({"a": lora_target, "b": find_target(str(base))})
    assert message == "`b` has no adapter to switch to"
    assert hint == "give runs of LoRA, QLoRA, prefix or adapter"


def test_fully_tuned_model_is_refused(lora_target, base, tmp_path):
    model = load_model(find_model(str(base)), dtype=torch.float32, device="cpu").model
    note = {"base_model": str(base), "method": "full"}
    save_whole(model, tmp_path / "whole", tokenizer=tiny_tokenizer(), note=note)
    assert refusal({"a": lora_target, "b": find_target(str(tmp_path / "whole"))})[0].startswith("`b` has no")


def test_name_base_is_taken(lora_target):
    message = "adapters need names other than `base`, and at least one is needed"
    assert refusal({"base": lora_target})[0] == refusal({})[0] == message


def test_damaged_adapter_among_others_is_named(lora_target, base, tmp_path):
    other = adapter_folder(base, tmp_path / "broken", KINDS["lora"], seed=2)
    file = other.adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    message, _ = refusal({"a": lora_target, "b": other})
    assert re.match(f"adapter `{re.escape(str(other.adapter))}` does not fit ", message)

"""AdamW in its kinds: which one is chosen, what it computes, and that it goes on exactly from a file."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tunesmith.errors import ConfigError
from tunesmith.training.optimizer import choose_optim, make_optimizer

NOTE = "paging of AdamW's states needs CUDA; on {} they are held in 8 bit instead"
ON_CPU = ("adamw_torch", "adamw_8bit")
SIZES = {"small": (3, 5), "at the limit": (64, 64), "odd": (67, 77)}


@pytest.mark.parametrize(
    ("device", "is_four_bit", "expected"),
    [
        ("cpu", False, ("adamw_torch", None)),
        ("cuda", False, ("adamw_torch", None)),
        ("mps", False, ("adamw_torch", None)),
        ("cuda", True, ("paged_adamw_32bit", None)),
        ("cpu", True, ("adamw_8bit", NOTE.format("cpu"))),
        ("mps", True, ("adamw_8bit", NOTE.format("mps"))),
    ],
)
def test_auto_follows_the_weights_and_the_device(device, is_four_bit, expected):
    assert choose_optim("auto", device=device, is_four_bit=is_four_bit) == expected


@pytest.mark.parametrize("is_four_bit", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("asked", ["adamw_torch", "adamw_8bit"])
def test_what_runs_everywhere_is_taken_as_asked(asked, device, is_four_bit):
    assert choose_optim(asked, device=device, is_four_bit=is_four_bit) == (asked, None)


@pytest.mark.parametrize("asked", ["paged_adamw_32bit", "paged_adamw_8bit"])
def test_paging_is_taken_on_cuda(asked):
    assert choose_optim(asked, device="cuda", is_four_bit=False) == (asked, None)


@pytest.mark.parametrize("device", ["cpu", "mps"])
@pytest.mark.parametrize("asked", ["paged_adamw_32bit", "paged_adamw_8bit"])
def test_paging_without_cuda_is_refused_with_the_ways_out(asked, device):
    message = f"^`optim` is {asked}, and paging needs CUDA; the device is {device}$"
    with pytest.raises(ConfigError, match=message) as caught:
        choose_optim(asked, device=device, is_four_bit=True)
    assert caught.value.hint == "use `--optim adamw_8bit`, or `--optim adamw_torch` for states in 32 bit"


@pytest.mark.parametrize("kind", ["paged_adamw_32bit", "paged_adamw_8bit"])
def test_paged_optimizer_over_parameters_on_the_cpu_is_refused(kind):
    with pytest.raises(ConfigError, match=f"^`optim` is {kind}, and paging needs CUDA; the device is cpu$"):
        make_optimizer([nn.Parameter(torch.ones(2))], kind=kind, learning_rate=1.0, weight_decay=0.0)


def fresh_weights():
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(*shape)) for shape in SIZES.values()]


def walk(weights, optimizer, *, first, last):
    """Steps `first` to `last` along gradients that depend on the step and on where the weights are."""
    for step in range(first, last + 1):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / step
        torch.manual_seed(step)
        for weight in weights:
            weight.grad = weight.detach() + torch.randn_like(weight)
        optimizer.step()


def through_a_file(state, path):
    """What a checkpoint does to an optimizer's state: tensors to safetensors, all else to JSON."""
    tensors, rest = {}, {"groups": state["param_groups"], "numbers": {}}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{name}"] = value.detach().cpu().contiguous()
            else:
                rest["numbers"][f"{index}.{name}"] = value
    save_file(tensors, path)
    rest = json.loads(json.dumps(rest))
    joined = {}
    for key, value in (load_file(path) | rest["numbers"]).items():
        index, _, name = key.partition(".")
        joined.setdefault(int(index), {})[name] = value
    return {"state": joined, "param_groups": rest["groups"]}


def made(weights, kind, *, weight_decay=0.1):
    return make_optimizer(weights, kind=kind, learning_rate=0.01, weight_decay=weight_decay)


def state_bits(optimizer):
    return {
        (index, name): value.numpy().tobytes() if isinstance(value, torch.Tensor) else value
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


@pytest.mark.parametrize("stop", [1, 3, 5])
@pytest.mark.parametrize("kind", ON_CPU)
def test_six_steps_are_some_steps_a_file_and_the_rest_bit_for_bit(kind, stop, tmp_path):
    whole = fresh_weights()
    through = made(whole, kind)
    walk(whole, through, first=1, last=6)
    weights = fresh_weights()
    optimizer = made(weights, kind)
    walk(weights, optimizer, first=1, last=stop)
    saved = through_a_file(optimizer.state_dict(), tmp_path / "optimizer.safetensors")
    weights = [nn.Parameter(weight.detach().clone()) for weight in weights]
    again = made(weights, kind)
    again.load_state_dict(saved)
    walk(weights, again, first=stop + 1, last=6)
    assert all(torch.equal(a, b) for a, b in zip(weights, whole, strict=True))
    assert state_bits(again) == state_bits(through)


@pytest.mark.parametrize("kind", ON_CPU)
def test_no_two_tensors_of_the_state_share_memory(kind):
    weights = fresh_weights()
    optimizer = made(weights, kind)
    walk(weights, optimizer, first=1, last=1)
    values = [value for state in optimizer.state_dict()["state"].values() for value in state.values()]
    places = [value.untyped_storage().data_ptr() for value in values if isinstance(value, torch.Tensor)]
    assert len(places) == len(set(places))


def test_tensors_below_4096_numbers_keep_states_in_32_bit():
    weights = fresh_weights()
    optimizer = made(weights, "adamw_8bit")
    walk(weights, optimizer, first=1, last=1)
    found = [optimizer.state_dict()["state"][index]["state1"].dtype for index in range(len(SIZES))]
    assert found == [torch.float32, torch.uint8, torch.uint8]


def test_states_in_8_bit_take_a_quarter_and_their_block_scales():
    weight = nn.Parameter(torch.randn(128, 256))
    optimizer = made([weight], "adamw_8bit")
    walk([weight], optimizer, first=1, last=1)
    held = sum(v.nbytes for v in optimizer.state_dict()["state"][0].values() if isinstance(v, torch.Tensor))
    assert held == 2 * (weight.numel() + 4 * weight.numel() // 256)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_torch_is_adamw_of_the_paper(weight_decay):
    """Loshchilov and Hutter 2019, algorithm 2, by hand in float64."""
    weight = nn.Parameter(torch.linspace(-2, 2, 7))
    optimizer = made([weight], "adamw_torch", weight_decay=weight_decay)
    by_hand, mean, square = weight.detach().double(), torch.zeros(7).double(), torch.zeros(7).double()
    for step in range(1, 6):
        gradient = torch.cos(weight.detach() * step)
        weight.grad = gradient.clone()
        optimizer.step()
        mean = 0.9 * mean + 0.1 * gradient.double()
        square = 0.999 * square + 0.001 * gradient.double() ** 2
        update = mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        by_hand = by_hand - 0.01 * (update + weight_decay * by_hand)
    torch.testing.assert_close(weight.detach().double(), by_hand, rtol=1e-5, atol=1e-6)


def fitted(kind, *, weight_decay):
    """Losses of 50 steps of least squares, 256 rows to a 96 x 64 matrix, and the matrix."""
    torch.manual_seed(1)
    inputs_BI, truth_OI = torch.randn(256, 64), torch.randn(96, 64)
    targets_BO = inputs_BI @ truth_OI.T
    weight_OI = nn.Parameter(torch.zeros(96, 64))
    optimizer = make_optimizer([weight_OI], kind=kind, learning_rate=0.05, weight_decay=weight_decay)
    losses = []
    for _ in range(50):
        loss = (inputs_BI @ weight_OI.T - targets_BO).square().mean()
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
        optimizer.zero_grad()
    return losses, weight_OI.detach()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_states_in_8_bit_lead_where_32_bit_lead(weight_decay):
    """Every loss within half a percent of the first one, and the weights within 5 percent of their norm."""
    losses, weights = fitted("adamw_torch", weight_decay=weight_decay)
    close, weights_8bit = fitted("adamw_8bit", weight_decay=weight_decay)
    assert losses[-1] < 0.1 * losses[0]
    gaps = [abs(a - b) / losses[0] for a, b in zip(losses, close, strict=True)]
    away = float((weights_8bit - weights).norm() / weights.norm())
    assert max(gaps) < 0.005, max(gaps)
    assert away < 0.05, away
    assert not math.isclose(away, 0.0), "these states are not in 8 bit"

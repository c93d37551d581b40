"""4-bit weights against bitsandbytes alone on the same weights: codes, constants, sums, gradients, sizes."""

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

from tiny import tiny_tokenizer
from tunesmith.config import MethodConfig
from tunesmith.methods import qlora
from tunesmith.models.find import EMBEDDED, find_model
from tunesmith.models.load import load_model

BLOCK, SCALE_BLOCK = 64, 256


def random_model():
    """Weights of some size, with biases; half-filled blocks of scales, and none of weights."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=272, attention_bias=True, initializer_range=0.3, **sizes))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model.eval()


def pair_in(place, model):
    """The model from its folder, whole and in 4 bit."""
    model.save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    source = find_model(str(place))
    return [
        load_model(source, dtype=torch.float32, device="cpu", four_bit=held).model for held in (False, True)
    ]


def real_pair():
    source = find_model(EMBEDDED)
    return [
        load_model(source, dtype=torch.float32, device="cpu", four_bit=held).model for held in (False, True)
    ]


@pytest.fixture(scope="module", params=["random", pytest.param("real", marks=pytest.mark.real_model)])
def pair(request, tmp_path_factory):
    if request.param == "real":
        return real_pair()
    return pair_in(tmp_path_factory.mktemp("random"), random_model())


def layers_of(model):
    return {path: layer for path, layer in model.named_modules() if type(layer).__name__ == "Linear4bit"}


def test_codes_and_constants_are_bitsandbytes_own(pair):
    whole, held = pair
    assert layers_of(held)
    for path, layer in layers_of(held).items():
        weight_OI = whole.get_submodule(path).weight.data
        codes, expected = quantize_4bit(weight_OI, quant_type="nf4", compress_statistics=True)
        state = layer.weight.quant_state
        assert torch.equal(layer.weight.data, codes), path
        assert torch.equal(state.absmax, expected.absmax), path
        assert torch.equal(state.offset, expected.offset), path
        assert torch.equal(state.state2.absmax, expected.state2.absmax), path
        assert (state.blocksize, state.state2.blocksize, state.quant_type) == (BLOCK, SCALE_BLOCK, "nf4")


def test_all_other_weights_are_untouched(pair):
    whole, held = pair
    rest = {name: p for name, p in held.named_parameters() if p.dtype != torch.uint8}
    assert rest
    for name, parameter in rest.items():
        assert torch.equal(parameter, whole.get_parameter(name)), name


@pytest.mark.parametrize("is_training", [False, True])
def test_a_layer_multiplies_by_its_dequantized_weight(pair, is_training):
    _, held = pair
    torch.manual_seed(0)
    for path, layer in layers_of(held).items():
        weight_OI = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        x_BI = torch.randn(3, layer.in_features)
        layer.train(is_training)
        expected_BO = x_BI @ weight_OI.T + (0 if layer.bias is None else layer.bias)
        torch.testing.assert_close(layer(x_BI), expected_BO, rtol=1e-4, atol=1e-5, msg=path)
        layer.eval()


def test_a_layer_passes_the_gradient_of_its_dequantized_weight(pair):
    _, held = pair
    torch.manual_seed(0)
    for path, layer in layers_of(held).items():
        weight_OI = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        x_BI = torch.randn(3, layer.in_features, requires_grad=True)
        out_BO = torch.randn(3, layer.out_features)
        [found_BI] = torch.autograd.grad(layer(x_BI), x_BI, out_BO)
        torch.testing.assert_close(found_BI, out_BO @ weight_OI, rtol=1e-4, atol=1e-5, msg=path)


def test_no_weight_is_further_off_than_half_the_widest_gap_of_its_block(pair):
    """NF4's sixteen values lie at most 0.3039 apart (between -1 and -0.6962), times the block's largest.

    Double quantization moves the largest itself a little: by 0.01 of the largest in the matrix, at most.
    """
    whole, held = pair
    for path, layer in layers_of(held).items():
        weight = whole.get_submodule(path).weight.detach().flatten()
        near = dequantize_4bit(layer.weight.data, layer.weight.quant_state).flatten()
        largest = weight.view(-1, BLOCK).abs().amax(dim=1).repeat_interleave(BLOCK)
        off_by = (near - weight).abs()
        assert off_by.max() > 0
        allowed = 0.3039 / 2 * largest + 0.01 * largest.max()
        assert (off_by <= allowed).all(), path


@pytest.mark.real_model
def test_sizes_and_gradients_and_a_saved_adapter_of_the_embedded_model(tmp_path):
    whole, held = real_pair()
    layers = layers_of(held).values()
    numbers = sum(layer.weight.quant_state.shape.numel() for layer in layers)
    codes = sum(layer.weight.nbytes for layer in layers)
    states = [layer.weight.quant_state for layer in layers]
    constants = sum(s.absmax.nbytes + s.state2.absmax.nbytes + s.offset.nbytes for s in states)
    assert (len(states), numbers) == (210, 106_168_320)
    assert codes == numbers // 2
    assert round(8 * (codes + constants) / numbers, 3) == 4.127
    rest = sum(p.nbytes for p in held.parameters() if p.dtype != torch.uint8)
    assert rest == 4 * (134_515_008 - numbers)
    assert sum(p.nbytes for p in whole.parameters()) == 4 * 134_515_008

    ids = torch.arange(1000, 1024).view(1, -1)
    model = qlora.prepare(held, MethodConfig(name="qlora", rank=4))
    model.train()(input_ids=ids, labels=ids).loss.backward()
    learning = [p for p in model.parameters() if p.requires_grad]
    assert len(learning) == 2 * 210
    assert all(p.grad is not None for p in learning)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    optimizer = torch.optim.AdamW(learning, lr=1e-3)
    optimizer.step()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model.eval()(input_ids=ids).logits
        again = PeftModel.from_pretrained(real_pair()[1], tmp_path)
        assert torch.equal(again(input_ids=ids).logits, expected)

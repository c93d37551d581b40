"""GGUF files: the same model in a standard folder, converted once."""

import re
import struct

import pytest
import torch
from gguf import GGUFWriter, TokenType
from tokenizers import pre_tokenizers

from tiny import CHATML, SPECIALS, tiny_model
from tunesmith.errors import ModelError
from tunesmith.models import gguf
from tunesmith.models.find import find_model
from tunesmith.models.load import load_model

IDS = torch.tensor([[1, 40, 50, 60, 2, 0, 9]])
LAYER_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OTHER_NAMES = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
NEWLINE, ONE_TWO = "Ċ", "12"


def gguf_name(name):
    """`model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight`."""
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    _, _, number, *middle, _ = name.split(".")
    return f"blk.{number}.{LAYER_NAMES['.'.join(middle)]}.weight"


def interleaved(weight, *, heads):
    """Rows as llama.cpp orders them for rotary positions: the halves of a head take turns."""
    return weight.view(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_tensors(writer, model):
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        layer = name.split(".")[-2]
        tensor = interleaved(weight, heads=heads[layer]) if layer in heads else weight
        writer.add_tensor(gguf_name(name), tensor.numpy())


def write_tokenizer(writer, *, pre):
    """Bytes as tokens, and merges of two newlines and of the digits 1 and 2."""
    tokens = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), NEWLINE * 2, ONE_TWO]
    tokens += [f"[unused{number}]" for number in range(272 - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges([f"{NEWLINE} {NEWLINE}", "1 2"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(CHATML)


def write_gguf(path, *, seed=0, pre="smollm"):
    model = tiny_model(seed=seed)
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(model.config.max_position_embeddings)
    writer.add_embedding_length(model.config.hidden_size)
    writer.add_block_count(model.config.num_hidden_layers)
    writer.add_feed_forward_length(model.config.intermediate_size)
    writer.add_head_count(model.config.num_attention_heads)
    writer.add_head_count_kv(model.config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(model.config.vocab_size)
    write_tokenizer(writer, pre=pre)
    write_tensors(writer, model)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("files") / "tiny.gguf")


@pytest.fixture(autouse=True)
def own_cache(cache, monkeypatch):
    monkeypatch.setenv("TUNESMITH_CACHE", str(cache))


@pytest.fixture(scope="module")
def loaded(cache, file):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_CACHE", str(cache))
        return load_model(find_model(str(file)), dtype=torch.float32, device="cpu")


def test_converted_model_computes_what_the_original_did(loaded):
    with torch.no_grad():
        expected = tiny_model()(input_ids=IDS).logits
        torch.testing.assert_close(loaded.model(input_ids=IDS).logits, expected, rtol=1e-5, atol=1e-5)


def test_source_is_the_file_and_its_converted_folder(file, loaded, cache):
    assert (loaded.source.name, loaded.source.kind) == (str(file), "gguf")
    assert loaded.source.path.startswith(str(cache / "gguf" / "tiny-"))


def test_converted_model_can_be_saved_again(loaded, tmp_path):
    loaded.model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()


def test_tokenizer_keeps_text_ids_template_and_control_tokens(loaded):
    tokenizer = loaded.tokenizer
    text = "Grüße, 你好\n\tdef f(x): return 'y'  "
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    assert tokenizer("<|im_end|>", add_special_tokens=False).input_ids == [2]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    assert tokenizer.chat_template == CHATML


@pytest.mark.parametrize("text", ["\n\n1.", "a\n\n1", "\n\n\n\n7"])
def test_digits_are_cut_off_first_so_that_newlines_before_them_stay_together(loaded, text):
    """GPT-2's rule alone would leave one newline to each side of the cut."""
    tokens = loaded.tokenizer.tokenize(text)
    assert NEWLINE not in tokens
    assert NEWLINE * 2 in tokens


def test_digits_are_single_although_the_merges_know_a_pair(loaded):
    assert loaded.tokenizer.tokenize("x1212") == ["x", "1", "2", "1", "2"]


@pytest.mark.parametrize("pre", ["gpt-2", None])
def test_other_models_keep_gpt_2_s_cuts(tmp_path, pre):
    source = find_model(str(write_gguf(tmp_path / "pairs.gguf", pre=pre)))
    tokenizer = load_model(source, dtype=torch.float32, device="cpu").tokenizer
    assert tokenizer.tokenize("x1212") == ["x", "12", "12"]
    assert tokenizer.tokenize("\n\n1.") == [NEWLINE, NEWLINE, "1", "."]


def test_second_call_converts_nothing(file, loaded):
    folder = gguf.converted(file)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert gguf.converted(file) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_copy_of_a_file_elsewhere_is_not_converted_again(file, loaded, tmp_path):
    copy = tmp_path / file.name
    copy.write_bytes(file.read_bytes())
    assert gguf.converted(copy) == gguf.converted(file)


def test_another_model_under_the_same_name_is_converted_anew(file, loaded, tmp_path):
    other = write_gguf(tmp_path / file.name, seed=1)
    assert gguf.converted(other) != gguf.converted(file)


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"not a model at all", struct.pack("<4sIQQ", b"GGUF", 3, 9, 9)]
)
def test_broken_file_is_an_error_with_a_remedy_and_leaves_no_folder(tmp_path, monkeypatch, content):
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(
        ModelError, match=f"^`{re.escape(str(path))}` cannot be read as a GGUF model: "
    ) as caught:
        find_model(str(path))
    assert caught.value.hint == "check that the download is whole, or take the model's safetensors folder"
    assert list((tmp_path / "cache/gguf").iterdir()) == []


def test_download_that_broke_off_is_an_error(file, tmp_path):
    path = tmp_path / "half.gguf"
    path.write_bytes(file.read_bytes()[:60_000])
    with pytest.raises(ModelError, match="cannot be read as a GGUF model"):
        find_model(str(path))


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"TUNESMITH_CACHE": "/a"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/tunesmith"),
        ({"HOME": "/c"}, "/c/.cache/tunesmith"),
        ({"TUNESMITH_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
    ],
)
def test_cache_folder_is_ours_then_the_user_s_then_home(monkeypatch, variables, folder):
    for name in ("TUNESMITH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(gguf.cache_folder()) == folder

"""The embedded model through our code against the same model through transformers and gguf alone."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader, dequantize
from torch.nn import functional
from transformers import AutoTokenizer

from tunesmith.config import MethodConfig
from tunesmith.data.batches import collate
from tunesmith.data.conversation import Message, Row
from tunesmith.data.render import Renderer, choose_template
from tunesmith.methods import lora
from tunesmith.models.find import EMBEDDED, EMBEDDED_PACKAGE, find_model
from tunesmith.models.forward import token_losses
from tunesmith.models.generate import Decoding, generate_ids
from tunesmith.models.load import load_model
from tunesmith.models.tokenizer import load_tokenizer

pytestmark = pytest.mark.real_model

CONVERSATIONS = (
    [("user", "What is the capital of France?"), ("assistant", "Paris.")],
    [
        ("system", "You answer with one number."),
        ("user", "12 + 345?"),
        ("assistant", "357"),
        ("user", "And one more?\n\n1. 你好"),
        ("assistant", "358"),
    ],
)


@pytest.fixture(scope="module")
def loaded():
    torch.set_num_threads(2)
    return load_model(find_model(EMBEDDED), dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module")
def renderer(loaded):
    return Renderer(loaded.tokenizer, choose_template(loaded.tokenizer))


def row_of(turns):
    return Row(tuple(Message(role, content) for role, content in turns), "rows.jsonl", 1, "messages")


def as_dicts(turns):
    return [{"role": role, "content": content} for role, content in turns]


@pytest.fixture(scope="module")
def batch(loaded, renderer):
    return collate([renderer.render(row_of(turns)) for turns in CONVERSATIONS], pad_id=loaded.pad_id)


@pytest.mark.parametrize("name", ["up_proj", "down_proj"])
def test_weights_are_the_file_s_own_dequantized(loaded, name):
    folder = Path(find_spec(EMBEDDED_PACKAGE).origin).parent  # importing the package asks for more
    [file] = folder.glob("*.gguf")
    tensors = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    stored = tensors[f"blk.7.ffn_{name.removesuffix('_proj')}.weight"]
    expected = torch.from_numpy(dequantize(stored.data, stored.tensor_type))
    assert torch.equal(loaded.model.get_submodule(f"model.layers.7.mlp.{name}").weight, expected)


@pytest.mark.parametrize("text", ["\n\n1.", "\n\n2", "\n\n3 apples"])
def test_newlines_before_a_digit_stay_together_as_the_model_was_trained(loaded, text):
    first, second, *_ = loaded.tokenizer(text, add_special_tokens=False).input_ids
    assert (loaded.tokenizer.decode([first]), loaded.tokenizer.decode([second])) == ("\n\n", text[2])


def test_digits_are_cut_one_by_one(loaded):
    assert loaded.tokenizer.tokenize("12345") == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_rendered_ids_are_those_of_the_chat_template(loaded, renderer, turns):
    own = loaded.tokenizer.apply_chat_template(as_dicts(turns))["input_ids"]
    assert list(renderer.render(row_of(turns)).ids) == own


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_prompt_ids_are_those_of_the_chat_template(loaded, renderer, turns):
    own = loaded.tokenizer.apply_chat_template(as_dicts(turns[:-1]), add_generation_prompt=True)["input_ids"]
    assert renderer.prompt_ids(row_of(turns).prompt) == own


def test_losses_are_transformers_own_on_the_same_labels(loaded, batch):
    scored_BT = functional.pad(batch.predicts_BT[:, :-1], (1, 0))
    labels_BT = batch.input_ids_BT.where(scored_BT, -100)
    with torch.no_grad():
        expected = loaded.model(input_ids=batch.input_ids_BT, labels=labels_BT).loss
        found = token_losses(loaded.model, batch.input_ids_BT, batch.predicts_BT)
    assert len(found) == batch.scored_tokens
    torch.testing.assert_close(found.mean(), expected, rtol=1e-5, atol=1e-5)


def test_padding_changes_no_loss(loaded, batch):
    with torch.no_grad():
        together = token_losses(loaded.model, batch.input_ids_BT, batch.predicts_BT)
        alone = []
        for row in batch.rows:
            single = collate([row], pad_id=loaded.pad_id)
            alone.append(token_losses(loaded.model, single.input_ids_BT, single.predicts_BT))
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_model_knows_an_answer_and_ends_it(loaded, renderer):
    """The weights, the tokenizer and the template fit together: no nonsense, no endless answer."""
    prompts = [renderer.prompt_ids(row_of(turns).prompt) for turns in CONVERSATIONS]
    settings = {
        "decoding": Decoding(max_new_tokens=24),
        "stop_ids": renderer.end_of_turn_ids,
        "pad_id": loaded.pad_id,
    }
    together = generate_ids(loaded.model, prompts, **settings)
    assert together == [generate_ids(loaded.model, [prompt], **settings)[0] for prompt in prompts]
    assert renderer.text(together[0]) == "The capital of France is Paris."


def test_fresh_adapter_changes_no_logit(loaded, batch):
    with torch.no_grad():
        before = loaded.model(input_ids=batch.input_ids_BT).logits
        adapted = lora.prepare(loaded.model, MethodConfig(rank=4)).eval()
        after = adapted(input_ids=batch.input_ids_BT).logits
        adapted.unload()
    assert torch.equal(after, before)


def test_tokenizer_read_without_torch_is_the_one_transformers_chooses() -> None:
    source = find_model(EMBEDDED)
    ours, theirs = load_tokenizer(source), AutoTokenizer.from_pretrained(source.path)
    assert ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    assert ours.chat_template == theirs.chat_template
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert type(ours) is type(theirs)

"""Attacks A1 to A11: model, adapter and checkpoint folders of strangers. The ids: docs/security.md."""

import ast
import json
import shutil
import struct
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tunesmith
from attacks import (
    edit_json,
    fails_cheaply,
    gguf_bytes,
    gguf_text,
    refused,
    safetensors_bytes,
    tensor,
    write_code,
    write_pickles,
)
from tiny import tiny_model, tiny_model_folder, tiny_tokenizer
from tiny_run import tiny_lora, train
from tunesmith.config import MethodConfig
from tunesmith.errors import ModelError
from tunesmith.methods import lora
from tunesmith.models import weights_header
from tunesmith.models.adapter import find_target, load_target, save_adapter
from tunesmith.models.find import find_model
from tunesmith.models.load import load_model
from tunesmith.models.tokenizer import load_tokenizer
from tunesmith.training.checkpoint import load_checkpoint, newest_whole

SOURCES = sorted(Path(tunesmith.__file__).parent.rglob("*.py"))
RESUME_PICKLES = ("rng_state.pth", "optimizer.pt", "scheduler.pt", "training_args.bin", "dataloader.pt")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture
def folder(whole, tmp_path):
    """A model folder to tamper with."""
    return shutil.copytree(whole, tmp_path / "model")


@pytest.fixture
def adapter(whole, tmp_path):
    """An adapter folder to tamper with."""
    tuned = lora.prepare(tiny_model(), MethodConfig(rank=4))
    path = tmp_path / "adapter"
    save_adapter(tuned, path, tokenizer=tiny_tokenizer(), note={"base_model": str(whole), "method": "lora"})
    return path


@pytest.fixture
def canary(tmp_path):
    """A file that only a payload would make."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "code of a stranger ran"


def loaded(folder):
    return load_model(find_model(str(folder)), dtype=torch.float32, device="cpu")


def loaded_adapter(folder):
    return load_target(find_target(str(folder)), dtype=torch.float32, device="cpu")


def test_a01_pickled_weights_are_never_read(folder, canary, capsys):
    (folder / "model.safetensors").unlink()
    write_pickles(folder, canary, "pytorch_model.bin", "model.pt")
    with pytest.raises(ModelError, match="holds no safetensors weights"):
        loaded(folder)
    message = refused(capsys, "generate", folder, "--prompt", "hi")
    assert "holds no safetensors weights" in message


def test_a01_pickled_weights_beside_good_ones_are_not_looked_at(folder, canary):
    write_pickles(folder, canary, "pytorch_model.bin", "consolidated.pth")
    assert loaded(folder).model is not None


def test_a01_pickled_adapter_is_never_read(adapter, canary):
    write_pickles(adapter, canary, "adapter_model.bin")
    assert loaded_adapter(adapter).model is not None
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no adapter_model\.safetensors") as caught:
        loaded_adapter(adapter)
    assert "can run code" in caught.value.hint


def test_a01_weights_that_only_call_themselves_safetensors_are_refused(folder, canary):
    torch.save({"a": 1}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"cannot be loaded: `model\.safetensors`: it is cut off"):
        loaded(folder)


def test_a02_pickles_among_checkpoints_are_never_read(tmp_path, canary):
    train(tmp_path / "checkpoints", max_steps=4, save_steps=2)
    newest, _ = newest_whole(tmp_path / "checkpoints")
    write_pickles(newest, canary, *RESUME_PICKLES)
    write_pickles(tmp_path / "checkpoints", canary, *RESUME_PICKLES)
    again, damaged = newest_whole(tmp_path / "checkpoints")
    assert (again, damaged) == (newest, ())
    assert load_checkpoint(newest, model=tiny_lora(), optimizer=None)["step"] == 4


def test_a02_checkpoint_of_pickles_alone_is_no_checkpoint(tmp_path, canary):
    write_pickles(tmp_path / "step-000004", canary, *RESUME_PICKLES)
    found, damaged = newest_whole(tmp_path)
    assert found is None
    assert "MANIFEST.json is missing" in damaged[0]


def test_a03_typed_paths_lead_to_no_pickle(tmp_path, canary, capsys):
    write_pickles(tmp_path, canary, "value_head.bin")
    for name in ("value_head.bin", "value_head.bin.pkl"):
        assert "is not a model folder" in refused(capsys, "generate", tmp_path / name, "--prompt", "hi")
    message = refused(capsys, "train", "--data", tmp_path / "value_head.bin")
    assert "zip archive" in message


def calls(path):
    """Dotted name and keywords of every call in a source file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            yield f"{path.name}:{node.lineno}", ast.unparse(node.func), words


def test_a04_nothing_is_trusted_because_it_was_scanned():
    """Formats decide: there is no reader of pickles to guard, and none is imported."""
    readers = {
        "pickle",
        "cPickle",
        "dill",
        "cloudpickle",
        "joblib",
        "marshal",
        "shelve",
        "picklescan",
        "fickling",
    }
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert {name.split(".")[0] for name in names} & readers == set(), path
        for place, function, words in calls(path):
            assert function not in ("torch.load", "numpy.load", "np.load"), place
            assert "allow_pickle" not in words, place


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"_attn_implementation_internal": "evil/kernel"}, "_attn_implementation_internal"),
        ({"_attn_implementation": "evil/kernel"}, "_attn_implementation"),
        ({"attn_implementation": "evil/kernel@main:f"}, "attn_implementation"),
        ({"_experts_implementation_internal": None, "experts_implementation": "evil/x"}, "_experts"),
        ({"trust_remote_code": True}, "trust_remote_code"),
        ({"text_config": {"_attn_implementation_internal": "evil/kernel"}}, "_attn_implementation_internal"),
        ({"_target_": "os.system"}, "_target_"),
        ({"configuration_files": ["config.4.0.json"]}, "configuration_files"),
        ({"custom_generate": "evil/generate"}, "custom_generate"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a05_private_keys_of_a_config_are_refused(folder, changes, key):
    edit_json(folder / "config.json", **changes)
    with pytest.raises(ModelError, match=f"its config.json sets `{key}") as caught:
        loaded(folder)
    assert "trust" in caught.value.hint


def test_a05_what_real_configs_hold_is_taken(folder):
    edit_json(
        folder / "config.json",
        _name_or_path="/home/someone/model",
        _attn_implementation="sdpa",
        _attn_implementation_autoset=True,
        _sliding_window_pattern=6,
        torch_dtype="float32",
    )
    assert loaded(folder).model is not None


@pytest.mark.parametrize("known", [True, False], ids=["known-type", "own-type"])
def test_a05_code_that_a_config_names_never_runs(folder, canary, known):
    """Many good models carry the map beside a type that transformers knows; it is never followed."""
    map_ = {
        "AutoConfig": "mine.Config",
        "AutoModelForCausalLM": "mine.Model",
        "AutoTokenizer": ["mine.T", None],
    }
    edit_json(folder / "config.json", auto_map=map_, **({} if known else {"model_type": "mine"}))
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.T", "mine.T"]})
    edit_json(folder / "generation_config.json", auto_map=map_)
    write_code(folder, canary, "mine.py", "__init__.py", "custom_generate/generate.py", "modeling_llama.py")
    if known:
        assert loaded(folder).model is not None
    else:
        with pytest.raises(ModelError, match="cannot be loaded: "):
            loaded(folder)
    assert not [name for name in sys.modules if name.startswith("transformers_modules")]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"auto_mapping": {"base_model_class": "X", "parent_library": "evil"}}, "auto_mapping"),
        ({"auto_mapping": {"base_model_class": "X", "parent_library": "transformers_evil"}}, "auto_mapping"),
        ({"auto_mapping": "evil"}, "auto_mapping"),
        ({"megatron_core": "evil"}, "megatron_core"),
        ({"megatron_config": {"a": 1}}, "megatron_config"),
        ({"tokenizer_kwargs": {"trust_remote_code": True}}, "tokenizer_kwargs"),
        ({"corda_config": {"cache_file": "evil.pt"}}, "corda_config"),
        ({"lora_ga_config": {"cache_file": "evil.pt"}}, "lora_ga_config"),
        ({"trust_remote_code": True}, "trust_remote_code"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a06_adapter_config_leads_to_no_code(adapter, canary, changes, key):
    write_code(adapter, canary, "evil.py")
    edit_json(adapter / "adapter_config.json", **changes)
    with pytest.raises(ModelError, match=f"sets `{key}` to .* which can lead to code") as caught:
        loaded_adapter(adapter)
    assert caught.value.hint == "take the adapter from someone you trust, or set this key to null"


def test_a06_settings_that_peft_would_leave_out_are_refused(adapter):
    edit_json(adapter / "adapter_config.json", use_of_the_future=True)
    with pytest.raises(ModelError, match="sets `use_of_the_future`, which LORA does not know here"):
        loaded_adapter(adapter)
    edit_json(adapter / "adapter_config.json", use_of_the_future=False)
    assert loaded_adapter(adapter).model is not None


@pytest.mark.parametrize("kind", ["EVIL", ["LORA"], None])
def test_a06_adapter_of_an_unknown_type_is_refused(adapter, kind):
    edit_json(adapter / "adapter_config.json", peft_type=kind)
    with pytest.raises(ModelError, match="which is not known here"):
        loaded_adapter(adapter)


def test_a06_adapter_without_a_task_carries_the_class_of_its_base(adapter):
    mapping = {
        "base_model_class": "LlamaForCausalLM",
        "parent_library": "transformers.models.llama.modeling_llama",
    }
    edit_json(adapter / "adapter_config.json", task_type=None, auto_mapping=mapping)
    assert loaded_adapter(adapter).model is not None


def test_a06_adapter_beside_a_model_is_not_put_on_unasked(folder, adapter, canary):
    write_pickles(folder, canary, "adapter_model.bin")
    shutil.copy(adapter / "adapter_config.json", folder)
    with pytest.raises(ModelError, match="holds an adapter beside a model"):
        loaded(folder)


def test_a07_every_call_that_could_load_code_says_no():
    """`None`, upstream's default, asks the user on the terminal."""
    found = [
        (place, function, words.get("trust_remote_code"))
        for path in SOURCES
        for place, function, words in calls(path)
        if function.startswith("Auto") and function.endswith((".from_pretrained", ".from_config"))
    ]
    assert len(found) > 6
    by_arguments = {"gguf.py"}
    wrong = [row for row in found if row[2] != "False" and row[0].split(":")[0] not in by_arguments]
    assert wrong == []
    assert '"trust_remote_code": False' in next(p for p in SOURCES if p.name == "gguf.py").read_text("utf-8")
    for path in SOURCES:
        assert "trust_remote_code=True" not in path.read_text("utf-8")


def test_a07_package_that_fetches_compiled_code_counts_as_not_installed():
    """bitsandbytes would get code from the hub as it is imported, on processors that know bfloat16."""
    from transformers.utils import is_kernels_available

    assert sys.modules["kernels"] is None
    assert not is_kernels_available()
    with pytest.raises(ImportError):
        import kernels  # noqa: F401


def test_a08_no_class_is_looked_up_by_a_name_from_a_file():
    for path in SOURCES:
        for place, function, words in calls(path):
            assert function.split(".")[-1] not in (
                "eval",
                "exec",
                "__import__",
                "instantiate",
            ) or function.endswith(("model.eval", ".eval")), (place, words)
    imports = [
        place for path in SOURCES for place, function, _ in calls(path) if function.endswith("import_module")
    ]
    # Of a library that is an extra, by its own name.
    assert [place.split(":")[0] for place in imports] == ["retrieval.py"]


LIES = {
    "length-beyond-the-file": struct.pack("<Q", 2**63) + b"{}",
    "length-beyond-the-limit": struct.pack("<Q", weights_header.MOST_HEADER_BYTES + 1)
    + b" " * (weights_header.MOST_HEADER_BYTES + 1),
    "shorter-than-a-length": b"\1\0",
    "no-json": safetensors_bytes(b"not json"),
    "no-object": safetensors_bytes(b"[]"),
    "deep": safetensors_bytes(b"[" * 200_000),
    "twice": safetensors_bytes(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"\0" * 4,
    ),
    "tail": safetensors_bytes({"a": tensor(0, 4)}, b"\0" * 4 + b"PK\3\4"),
    "gap": safetensors_bytes({"a": tensor(0, 4), "b": tensor(8, 12)}, b"\0" * 12),
    "overlap": safetensors_bytes({"a": tensor(0, 8), "b": tensor(4, 8)}, b"\0" * 8),
    "beyond": safetensors_bytes({"a": tensor(0, 400)}, b"\0" * 4),
    "shape-overflow": safetensors_bytes({"a": tensor(0, 4, shape=[2**62, 2**62])}, b"\0" * 4),
    "shape-negative": safetensors_bytes({"a": tensor(0, 4, shape=[-1])}, b"\0" * 4),
    "shape-of-floats": safetensors_bytes({"a": tensor(0, 4, shape=[1.0])}, b"\0" * 4),
    "offsets-backwards": safetensors_bytes(
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"\0" * 4
    ),
    "huge-integer": safetensors_bytes(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b"]}}"),
    "no-place": safetensors_bytes({"a": 7}),
    "many": safetensors_bytes({f"t{number}": tensor(0, 0) for number in range(100_001)}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a09_head_of_weights_that_lies_is_refused_fast_and_small(folder, lie):
    (folder / "model.safetensors").write_bytes(LIES[lie])
    fails_cheaply(
        lambda: find_model(str(folder)), ModelError, match=r"cannot be loaded: `model\.safetensors`: "
    )


@pytest.mark.parametrize("lie", ["tail", "twice", "beyond"])
def test_a09_head_of_an_adapter_that_lies_is_refused(adapter, lie):
    (adapter / "adapter_model.safetensors").write_bytes(LIES[lie])
    with pytest.raises(ModelError, match="does not fit"):
        loaded_adapter(adapter)


def test_a09_what_the_library_writes_is_taken(tmp_path):
    kinds = [
        torch.float32,
        torch.bfloat16,
        torch.float16,
        torch.int64,
        torch.uint8,
        torch.bool,
        torch.float8_e4m3fn,
    ]
    tensors = {f"t{number}": torch.zeros(3, number, dtype=kind) for number, kind in enumerate(kinds)}
    save_file(tensors | {"empty": torch.zeros(0), "one": torch.tensor(1.0)}, tmp_path / "a.safetensors")
    assert weights_header.header_problem(tmp_path / "a.safetensors") is None
    assert len(load_file(tmp_path / "a.safetensors")) == 9


def entry(name, kind, value):
    return gguf_text(name) + struct.pack("<I", kind) + value


TENSOR = gguf_text(b"t") + struct.pack("<IQIQ", 1, 8, 0, 0)
GGUF_LIES = {
    "magic": gguf_bytes(magic=b"GGML", rest=b"\0" * 32),
    "version": gguf_bytes(version=9, rest=b"\0" * 32),
    "tensors": gguf_bytes(tensors=2**40),
    "entries": gguf_bytes(entries=2**63),
    "text-beyond": gguf_bytes(entries=1, rest=struct.pack("<Q", 2**60) + b"a"),
    "list-beyond": gguf_bytes(entries=1, rest=entry(b"a", 9, struct.pack("<IQ", 8, 2**50))),
    "numbers-beyond": gguf_bytes(entries=1, rest=entry(b"a", 9, struct.pack("<IQ", 12, 2**50))),
    "lists-in-lists": gguf_bytes(entries=1, rest=entry(b"a", 9, struct.pack("<IQ", 9, 1) * 50)),
    "type": gguf_bytes(entries=1, rest=entry(b"a", 77, b"\0" * 8)),
    "alignment": gguf_bytes(entries=1, rest=entry(b"general.alignment", 4, struct.pack("<I", 0))),
    "tensor-beyond": gguf_bytes(tensors=1, rest=TENSOR + b"\0" * 32),
    "offset-beyond": gguf_bytes(
        tensors=1, rest=gguf_text(b"t") + struct.pack("<IQIQ", 1, 8, 0, 2**62) + b"\0" * 99
    ),
    "shape-overflow": gguf_bytes(
        tensors=1, rest=gguf_text(b"t") + struct.pack("<IQQIQ", 2, 2**62, 2**62, 0, 0) + b"\0" * 99
    ),
    "dimensions": gguf_bytes(tensors=1, rest=gguf_text(b"t") + struct.pack("<I", 2**31) + b"\0" * 99),
    "tensor-type": gguf_bytes(tensors=1, rest=gguf_text(b"t") + struct.pack("<IQIQ", 1, 8, 999, 0)),
}


@pytest.mark.parametrize("lie", GGUF_LIES)
def test_a10_gguf_that_counts_beyond_its_end_is_refused_fast_and_small(tmp_path, monkeypatch, lie):
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m.gguf").write_bytes(GGUF_LIES[lie])
    fails_cheaply(
        lambda: find_model(str(tmp_path / "m.gguf")), ModelError, match="cannot be read as a GGUF model: "
    )
    assert list((tmp_path / "cache/gguf").iterdir()) == []


def test_a10_what_lies_beside_a_gguf_file_is_not_followed(tmp_path, monkeypatch, canary):
    """transformers would go to the base that an adapter_config.json beside the file names."""
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/base"}')
    (tmp_path / "m.gguf").write_bytes(gguf_bytes(rest=b"\0" * 64))
    write_pickles(tmp_path, canary, "adapter_model.bin")
    with pytest.raises(ModelError, match="cannot be read as a GGUF model: ") as caught:
        find_model(str(tmp_path / "m.gguf"))
    assert "evil" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/passwd", "C:\\x", "\\\\host\\x", "a/b.safetensors", 7, ""]
)
def test_a11_names_in_an_index_stay_in_the_folder(folder, name):
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"names the file .* which is none of this folder"):
        loaded(folder)


def test_a11_links_of_a_download_cache_are_followed(whole, tmp_path):
    """The hub's cache holds links to files under other names, which a check of paths must not refuse."""
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    for number, file in enumerate(sorted(whole.iterdir())):
        shutil.copy(file, tmp_path / "blobs" / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    assert loaded(snapshot).model is not None


def test_a11_odd_values_of_a_config_are_an_error_with_a_remedy(folder):
    for changes in (
        {"num_attention_heads": 0},
        {"hidden_size": "x"},
        {"rope_parameters": 7},
        {"vocab_size": -1},
    ):
        before = (folder / "config.json").read_text()
        edit_json(folder / "config.json", **changes)
        with pytest.raises(ModelError):
            loaded(folder)
        (folder / "config.json").write_text(before)
    (folder / "tokenizer.json").write_text("[]")
    with pytest.raises(ModelError):
        load_tokenizer(find_model(str(folder)))

"""Whatever comes in ends in a result that holds or in an error with a remedy: ten targets, fed at random.

`make test` runs a few examples of each, the same ones every time. `make fuzz` runs them in turn, with new
seeds, until its time is over (`TUNESMITH_FUZZ_SECONDS`); a failing example is printed as it must be typed
into a test.
"""

import asyncio
import atexit
import gzip
import io
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from safetensors import safe_open
from safetensors.torch import save as safetensors_of

from attacks import gguf_bytes, gguf_text
from people_room import SYSTEMS, make_survey, open_votes
from tiny import CHATML, SPECIALS, tiny_tokenizer
from tunesmith.data.conversation import Message, Row
from tunesmith.data.read import read_records
from tunesmith.data.render import Renderer, Template
from tunesmith.doctor.read_foreign import read_foreign
from tunesmith.errors import ConfigError, DataError, ModelError, RunFolderError, TemplateError, UserError
from tunesmith.models import gguf_header, weights_header
from tunesmith.models.adapter_config import check_adapter_config
from tunesmith.models.foreign import check_config
from tunesmith.people.guard import Guard
from tunesmith.people.server import create_app
from tunesmith.people.store import VoteStore
from tunesmith.resolve import options, resolve
from tunesmith.training.checkpoint import FILES, check_checkpoint, save_checkpoint
from tunesmith.training.whole_folder import MANIFEST

SECONDS = float(os.environ.get("TUNESMITH_FUZZ_SECONDS", "0"))
ROUND_EXAMPLES, RENDER_CPU_SECONDS = 100, 3.0
PORT, TOKEN = 4567, "the-token"


@dataclass(frozen=True, slots=True)
class Target:
    """What is drawn, what must hold of it, and how many examples take about a second.

    Attributes:
        check: called with a folder of its own and what was drawn.
        drawn: strategies by the names of `check`'s arguments.
        examples: in the normal run of the tests.
    """

    check: Callable[..., None]
    drawn: dict[str, st.SearchStrategy[Any]]
    examples: int


TARGETS: dict[str, Target] = {}


def target(*, examples: int, **drawn: st.SearchStrategy[Any]) -> Callable[..., Callable[..., None]]:
    """Put a check among the targets under its own name."""

    def kept(check: Callable[..., None]) -> Callable[..., None]:
        TARGETS[check.__name__] = Target(check, drawn, examples)
        return check

    return kept


NASTY = st.sampled_from(
    [
        b"\x00",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b'"',
        b"\\",
        b"\\ud800",
        b"{",
        b"[",
        b"]",
        b"}",
        b",",
        b"\n",
        b"\r",
        b"NaN",
        b"1e999",
        b"9" * 400,
        b"\x1f\x8b",
        b"PAR1",
        b"<html",
        b"- ",
        b": ",
        b"&a ",
        b"*a",
        b"!!python/name:os.system",
    ]
)
PLACES = st.integers(0, 2**20)
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "delete", "insert", "cut", "repeat"]),
        PLACES,
        PLACES,
        st.binary(max_size=9) | NASTY,
    ),
    max_size=5,
)


def edited(content: bytes, edits: list[tuple[str, int, int, bytes]]) -> bytes:
    """The content after each edit."""
    for kind, first, second, piece in edits:
        at = first % (len(content) + 1)
        end = min(len(content), at + second % 64)
        if kind == "flip" and content:
            at %= len(content)
            content = content[:at] + bytes([content[at] ^ (1 << second % 8)]) + content[at + 1 :]
        elif kind == "delete":
            content = content[:at] + content[end:]
        elif kind == "insert":
            content = content[:at] + piece + content[at:]
        elif kind == "cut":
            content = content[:at]
        elif kind == "repeat":
            content = content[:end] + content[at:end] * (second % 7) + content[end:]
    return content


def lasting_folder() -> Path:
    """A folder for all examples, removed with the process."""
    folder = tempfile.mkdtemp(prefix="fuzz-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@cache
def data_seeds() -> dict[str, bytes]:
    """A good file of each kind."""
    rows = [
        {"instruction": f"Say {n} ü", "output": 'a "b",\nc', "n": [n, None, {"x": 1.5}]} for n in range(4)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    table = io.BytesIO()
    parquet.write_table(pa.table({"instruction": ["a", "b"], "output": ["c", "d"]}), table)
    return {
        "rows.jsonl": lines,
        "rows.json": json.dumps(rows, indent=1).encode(),
        "rows.csv": b'instruction,output\nSay hi,"a, ""b""\nc"\nSay,ho\n',
        "rows.parquet": table.getvalue(),
        "rows.jsonl.gz": gzip.compress(lines, mtime=0),
    }


@target(examples=150, name=st.sampled_from(sorted(data_seeds())), edits=EDITS)
def reader(folder: Path, name: str, edits: list[Any]) -> None:
    """Rows and counted bad lines, or an error that names the file."""
    path = folder / name
    path.write_bytes(edited(data_seeds()[name], edits))
    try:
        records = list(read_records(path, skipped=[]))
    except DataError as error:
        assert name in str(error)
        assert error.hint
    else:
        assert records
        assert all(isinstance(record.value, dict) and record.line >= 1 for record in records)


TEXTS = st.lists(
    st.text(st.characters(exclude_categories=("Cs", "Co")), max_size=12)
    | st.sampled_from([*SPECIALS, "\n", " ", "{{ 1 }}"]),
    max_size=4,
).map("".join)
ANSWERS = TEXTS.filter(lambda text: bool(text.strip()))


@cache
def chat() -> Renderer:
    return Renderer(tiny_tokenizer(), Template("chatml", CHATML))


@target(
    examples=120, system=st.none() | TEXTS, turns=st.lists(st.tuples(TEXTS, ANSWERS), min_size=1, max_size=3)
)
def renderer(folder: Path, system: str | None, turns: list[tuple[str, str]]) -> None:
    """The mask covers exactly the answers with their ends, and content yields no reserved id."""
    messages = [] if system is None else [Message("system", system)]
    for question, answer in turns:
        messages += [Message("user", question), Message("assistant", answer)]
    rendered = chat().render(Row(tuple(messages), "rows.jsonl", 1, "messages"))
    tokenizer = chat().tokenizer
    end, start, nothing = (tokenizer.convert_tokens_to_ids(SPECIALS[at]) for at in (2, 1, 0))
    assert rendered.ids.count(end) == rendered.ids.count(start) == len(messages)
    assert rendered.ids.count(nothing) == 0
    scored = [token for token, is_scored in zip(rendered.ids, rendered.scored, strict=True) if is_scored]
    expected = "".join(f"{answer}<|im_end|>" for _, answer in turns)
    assert tokenizer.decode(scored, clean_up_tokenization_spaces=False) == expected


PROGRAM = st.lists(
    st.sampled_from(
        [
            "{% for m in messages %}",
            "{% endfor %}",
            "{% if n.v %}",
            "{% else %}",
            "{% endif %}",
            "{{ m.content }}",
            "{% set n = namespace(v=[]) %}",
            "{% set n.v = [n.v, n.v, m] %}",
            "{% set n.v = n.v ~ n.v %}",
            "{{ n.v }}",
            "{% macro f(a) %}",
            "{% endmacro %}",
            "{{ f(f) }}",
            "{{ f(n.v) * 99999 }}",
            "{% for i in range(99999) %}",
            "{{ n.v|join(n.v) }}",
            "{{ 'a%s' * 999 % n.v }}",
            "{{ n.v|tojson|replace('a', n.v|string) }}",
            "{{ loop(m) }}",
            "{% set x %}",
            "{% endset %}",
            "{{ x.__class__ }}",
            "{{ x|attr('format') }}",
            "{% set n.v = x + x + x %}",
            "{{ dict(a=n.v, b=messages)|items|list }}",
            "{{ n.v|batch(9)|map('list')|list }}",
            "{% break %}",
            "{{ -1 / 0 }}",
            "{% generation %}",
            "{% endgeneration %}",
            "{{ [m] * 99999 }}",
            "{{ raise_exception(x) }}",
            CHATML,
            "{#",
            "}}",
        ]
    ),
    max_size=12,
).map("".join)


@target(examples=60, program=PROGRAM)
def templates(folder: Path, program: str) -> None:
    """A rendered row, or an error within the time and size that are allowed."""
    started = time.process_time()
    row = Row((Message("user", "hi"), Message("assistant", "ho")), "rows.jsonl", 1, "messages")
    try:
        rendered = Renderer(tiny_tokenizer(), Template("the given template", program)).render(row)
    except TemplateError as error:
        assert error.hint
    else:
        assert len(rendered.ids) == len(rendered.scored)
    # A rendering that is stopped; six of them make a row.
    assert time.process_time() - started < RENDER_CPU_SECONDS * 2


VALUES = st.sampled_from(
    ["1", "0.5", "-1", "1e-4", "yes", "lora", "rows.jsonl", "null", "[a, b]", "{a: b}", "'x'", '"\\ud800"']
)
LINES = st.tuples(st.sampled_from([option.key for option in options()]), VALUES)


@target(examples=80, lines=st.lists(LINES, max_size=6), edits=EDITS)
def config(folder: Path, lines: list[tuple[str, str]], edits: list[Any]) -> None:
    """A configuration that its own text gives again, or an error with a remedy."""
    sections: dict[str, list[str]] = {"data": ["  path: rows.jsonl"]}
    for key, value in lines:
        section, _, name = key.rpartition(".")
        sections.setdefault(section, []).append(f"{'  ' if section else ''}{name}: {value}")
    text = "\n".join("\n".join([f"{name}:"] * bool(name) + of) for name, of in sections.items())
    path = folder / "run.yaml"
    path.write_bytes(edited(text.encode(), edits))
    try:
        found = resolve(path)
    except ConfigError as error:
        assert error.hint
        return
    path.write_text(found.as_yaml(), encoding="utf-8")
    assert resolve(path).config == found.config


@cache
def checkpoint() -> Path:
    folder = lasting_folder()
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    return save_checkpoint(folder, step=3, model=model, optimizer=optimizer, state={"tokens": 7})


@target(
    examples=120,
    name=st.sampled_from([*FILES, MANIFEST]),
    edits=EDITS,
    is_gone=st.integers(0, 19).map(lambda n: n == 0),
)
def manifest(folder: Path, name: str, edits: list[Any], is_gone: bool) -> None:
    """Any byte changed, removed or added in any file is noticed; a whole one is taken."""
    copy = Path(shutil.copytree(checkpoint(), folder / "step-000003"))
    before = (copy / name).read_bytes()
    after = edited(before, edits)
    (copy / name).write_bytes(after)
    if is_gone:
        (copy / name).unlink()
    if after == before and not is_gone:
        check_checkpoint(copy)
        return
    with pytest.raises(RunFolderError, match=name):
        check_checkpoint(copy)


PATHS = st.lists(
    st.sampled_from(
        [
            "api",
            "act",
            "undo",
            "state",
            "marks",
            "static",
            "people.css",
            "..",
            "%2e%2e",
            "%00",
            "C:",
            "\\",
            "etc",
        ]
    )
    | st.text("abc/%?&=.;#", max_size=5),
    max_size=5,
).map(lambda parts: "/" + "/".join(parts))
QUERIES = st.dictionaries(
    st.sampled_from(["rater", "item", "token", "x"]), st.text("Aa01-é\0%", max_size=50), max_size=3
)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=9,
)
VOTES = st.fixed_dictionaries(
    {},
    optional={
        name: JSONS | st.sampled_from(["Ada", "left", "item0001", "a" * 8])
        for name in ("rater", "item", "act_id", "choice", "note", "scores")
    },
).map(lambda value: json.dumps(value).encode())


@cache
def site() -> tuple[Guard, VoteStore]:
    """One page for all examples, whose votes stay."""
    survey = make_survey("ab", 30)
    store = open_votes(lasting_folder() / "votes.sqlite", survey)
    atexit.register(store.close)
    return Guard(create_app(survey, store), token=TOKEN, port=PORT), store


@target(
    examples=100,
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE"]),
    path=st.sampled_from(["/", "/api/act", "/api/undo", "/api/state", "/api/marks", "/static/people.css"])
    | PATHS,
    query=QUERIES,
    headers=st.dictionaries(
        st.sampled_from(["Host", "Origin", "Cookie", "Content-Type", "Content-Length", "Accept", "X"]),
        st.text("abc:/.=;,0123456789 ", max_size=20),
        max_size=2,
    ),
    body=st.binary(max_size=99) | VOTES,
)
def web(
    folder: Path, method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes
) -> None:
    """Never an error of the server, never a system's name, and no vote but by a whole request."""
    application, store = site()
    before = len(store.acts)
    given_headers = {
        "Cookie": f"tunesmith_{PORT}={TOKEN}",
        "Content-Type": "application/json",
        **headers,
    }

    async def send() -> httpx.Response:
        url = httpx.URL(f"http://127.0.0.1:{PORT}").copy_with(raw_path=path.encode())
        url = url.copy_merge_params(query) if query else url
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=application)) as client:
            return await client.send(httpx.Request(method, url, headers=given_headers, content=body))

    try:
        response = asyncio.run(send())
    except (httpx.InvalidURL, httpx.ProtocolError, UnicodeError):
        return  # httpx itself does not send that
    assert response.status_code < 500
    assert not [system for system in SYSTEMS if system.encode() in response.content]
    assert len(store.acts) == before or (method, response.status_code) == ("POST", 200)


@cache
def log_seeds() -> dict[str, bytes]:
    history = [
        {"step": n, "epoch": n / 4, "loss": 2.0 / n, "learning_rate": 1e-4, "grad_norm": 1.0}
        for n in range(1, 9)
    ]
    history += [{"step": 8, "epoch": 2.0, "eval_loss": 1.0}]
    state = {"global_step": 8, "max_steps": 8, "epoch": 2.0, "log_history": history, "num_train_epochs": 2}
    table = "step,loss,eval_loss\n" + "".join(f"{n},{2 / n},\n" for n in range(1, 9))
    return {
        "trainer_state.json": json.dumps(state, indent=1).encode(),
        "loss.csv": table.encode(),
        "one.csv": b"3\n2\n1\n",
    }


@target(examples=100, name=st.sampled_from(sorted(log_seeds())), edits=EDITS)
def logs(folder: Path, name: str, edits: list[Any]) -> None:
    """Signs, or an error that names the file."""
    path = folder / name
    path.write_bytes(edited(log_seeds()[name], edits))
    try:
        assert read_foreign(path)
    except UserError as error:
        assert name in str(error)
        assert error.hint


@cache
def weights() -> bytes:
    return bytes(
        safetensors_of({"a": torch.ones(3, 2), "b": torch.zeros(5, dtype=torch.int8)}, {"format": "pt"})
    )


@target(examples=150, edits=EDITS)
def safetensors(folder: Path, edits: list[Any]) -> None:
    """What our check lets pass, the library opens, and every tensor it shows lies within the file."""
    path = folder / "model.safetensors"
    path.write_bytes(edited(weights(), edits))
    if weights_header.header_problem(path):
        return
    with safe_open(path, framework="pt") as file:
        shown = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    assert sum(tensor.nbytes for tensor in shown) < path.stat().st_size


@cache
def gguf_seed() -> bytes:
    entries = gguf_text(b"general.architecture") + b"\x08\0\0\0" + gguf_text(b"llama")
    entries += (
        gguf_text(b"tokens") + b"\x09\0\0\0" + b"\x08\0\0\0" + (2).to_bytes(8, "little") + gguf_text(b"a") * 2
    )
    tensors = gguf_text(b"t") + b"\x01\0\0\0" + (8).to_bytes(8, "little") + b"\0" * 4 + b"\0" * 8
    return gguf_bytes(tensors=1, entries=2, rest=entries + tensors + b"\0" * 96)


@target(examples=200, edits=EDITS)
def gguf(folder: Path, edits: list[Any]) -> None:
    """A fault in words, or none; the seed itself has none."""
    path = folder / "model.gguf"
    path.write_bytes(edited(gguf_seed(), edits))
    problem = gguf_header.header_problem(path)
    assert problem is None if path.read_bytes() == gguf_seed() else problem is None or problem


KEYS = st.sampled_from(
    [
        "model_type",
        "_attn_implementation",
        "_x",
        "auto_map",
        "trust_remote_code",
        "num_hidden_layers",
        "text_config",
        "peft_type",
        "r",
        "auto_mapping",
        "megatron_core",
        "tokenizer_kwargs",
        "corda_config",
        "x_internal",
        "_y_internal",
    ]
)
OBJECTS = st.dictionaries(KEYS, JSONS | st.dictionaries(KEYS, JSONS, max_size=3), max_size=5)


@target(examples=150, value=OBJECTS, kind=st.sampled_from(["LORA", "PREFIX_TUNING", "PROMPT_TUNING", "EVIL"]))
def configs(folder: Path, value: dict[str, Any], kind: str) -> None:
    """A config of a model or an adapter passes or is refused, whatever it holds; code never passes."""
    for check in (
        lambda: check_config(value, name="m"),
        lambda: check_adapter_config(folder, {**value, "peft_type": kind}),
    ):
        try:
            check()
        except ModelError as error:
            assert error.hint
        else:
            assert not value.get("trust_remote_code")
            assert not any(
                name.startswith("_") and name.endswith("_internal") and of for name, of in value.items()
            )


def run_target(name: str, *, examples: int, seed: int | None) -> int:
    """Feed one target; the number of examples it was given."""
    fed = 0
    chosen = TARGETS[name]

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=seed is None,
        suppress_health_check=list(HealthCheck),
    )
    @given(**chosen.drawn)
    def feed(**drawn: Any) -> None:
        nonlocal fed
        fed += 1
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            chosen.check(Path(folder), **drawn)

    (feed if seed is None else hypothesis.seed(seed)(feed))()
    return fed


@pytest.mark.skipif(SECONDS > 0, reason="the long run is asked for")
@pytest.mark.parametrize("name", TARGETS)
def test_target_holds(name: str) -> None:
    assert run_target(name, examples=TARGETS[name].examples, seed=None) > 1


@pytest.mark.skipif(SECONDS <= 0, reason="`make fuzz` asks for it")
def test_every_target_in_turn_until_the_time_is_over() -> None:
    seconds, counts = dict.fromkeys(TARGETS, 0.0), dict.fromkeys(TARGETS, 0)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for name in TARGETS:
            started, seed = time.monotonic(), secrets.randbits(32)
            try:
                counts[name] += run_target(name, examples=ROUND_EXAMPLES, seed=seed)
            except BaseException:
                print(f"\nfailed: run_target({name!r}, examples={ROUND_EXAMPLES}, seed={seed})")
                raise
            seconds[name] += time.monotonic() - started
    print()
    for name in TARGETS:
        print(f"{name:12} {counts[name]:9} examples {seconds[name]:8.1f} s")

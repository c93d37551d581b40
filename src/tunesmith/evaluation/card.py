"""The model card of an adapter or model folder: a README.md that the Hugging Face Hub and people can read.

Values from outside stand in code spans or are escaped, so that nothing in them becomes markup.
Read next: `templates/card.md.j2`.
"""

import json
import re
from functools import lru_cache

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape

from tunesmith.evaluation.marks import flatten, format_fact, result_rows, verdict
from tunesmith.evaluation.report import RunFacts, visible

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_FILE_ENDINGS = (".gguf", ".safetensors", ".bin", ".json")
_DATA_FACTS = ("data", "rows", "split", "overlap")
METHOD_NAMES = {"lora": "LoRA", "qlora": "QLoRA", "prefix": "prefix-tuning", "adapter": "bottleneck"}
_SETTINGS = ("data.max_length", "data.score", "method.", "training.")


def render_card(facts: RunFacts) -> str:
    """The card as Markdown with YAML front matter; equal for equal facts.

    `base_model` enters the front matter only where it is a hub id: a local path there would point the Hub
    at a repository that does not exist.

    Args:
        facts: what is known of the run, as for the report.

    Source: front matter keys as in the Hub's model card metadata specification.
    """
    recorded = flatten(facts.manifest)
    return _template().render(
        front_matter=_front_matter(facts),
        title=heading_text(facts.title),
        base_model=code_span(facts.base_model),
        base_is_hub_id=_has_hub_base(facts),
        base_argument=json.dumps(facts.base_model if _has_hub_base(facts) else "path/to/the/base/model"),
        method=heading_text(METHOD_NAMES.get(facts.method, facts.method)),
        is_whole=facts.method == "full",
        is_four_bit=facts.method == "qlora",
        needs_tunesmith=facts.method == "adapter",
        verdict=verdict(facts.evaluation),
        results=result_rows(facts.evaluation) if facts.evaluation else [],
        elsewhere=facts.elsewhere.verdict if facts.elsewhere else "",
        data=[(key, value) for key, value in recorded if key.partition(".")[0] in _DATA_FACTS],
        settings=[(key, format_fact(value)) for key, value, _ in facts.config if key.startswith(_SETTINGS)],
        template_hash=_template_hash(recorded),
    )


def is_hub_id(name: str) -> bool:
    """Whether `name` has the shape `owner/model` of a Hub repository and not that of a path or file."""
    strange = "--" in name or ".." in name or name.lower().endswith(_FILE_ENDINGS)
    return bool(_HUB_ID.fullmatch(name)) and not strange


def code_span(value: object) -> str:
    """`value` as Markdown code in one line: nothing in it acts as markup."""
    text = " ".join(str(visible(str(value))).split())
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    padding = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def table_cell(value: object) -> str:
    """`value` as code for a table, where a bare `|` would end the cell even inside code."""
    return code_span(value).replace("|", "\\|")


def heading_text(text: str) -> str:
    """`text` for running prose: one line, each sign that Markdown or HTML could read escaped."""
    line = " ".join(str(visible(text)).split())
    return re.sub(r"([\\`*_{}\[\]<>#|!&~$])", r"\\\1", line)


def _has_hub_base(facts: RunFacts) -> bool:
    return not facts.base_is_local and is_hub_id(facts.base_model)


def _front_matter(facts: RunFacts) -> str:
    entries: dict[str, object] = {"base_model": facts.base_model} if _has_hub_base(facts) else {}
    library = "transformers" if facts.method == "full" else "peft"
    tags = [name for name in (facts.method, "tunesmith") if name.isalnum()]
    entries |= {"library_name": library, "pipeline_tag": "text-generation", "tags": tags}
    return yaml.safe_dump(entries, sort_keys=False)


def _template_hash(recorded: list[tuple[str, str]]) -> str:
    """The hash of the prompt template, under whichever key the manifest keeps it."""
    found = (value for key, value in recorded if "template" in key and re.search("hash|sha256", key))
    return next(found, "")


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("tunesmith.evaluation"),
        autoescape=select_autoescape(enabled_extensions=("html.j2",), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code_span": code_span, "table_cell": table_cell}
    return environment.get_template("card.md.j2")

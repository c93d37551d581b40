"""Every kind of fault the check knows: where it belongs, how bad it is, why it matters, and what mends it.

`{file}` and `{clean}` in a remedy stand for the data file and the name a cleaned copy would get.
"""

import re
from dataclasses import dataclass

DIMENSIONS = ("reading", "quantity", "quality", "diversity", "consistency", "length", "leakage", "privacy")
SEVERITIES = ("error", "warning", "note")

_CLEAN = "tunesmith data clean {file} {clean}"
_SKIP = f"{_CLEAN} --skip-bad"
_CONVERT = "tunesmith data convert {file} {clean} --to messages"
_LOOK = "tunesmith data preview {file} --row N"
_FORMAT = "tunesmith data format {file} --fix"
_SPLIT = "tunesmith data split {file} {clean}.d"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault.

    Attributes:
        dimension: one of `DIMENSIONS`.
        severity: `error` (the row cannot be trained on, or teaches a fault for certain), `warning`, `note`.
        title: what was found, in the plural, after a number.
        why: why it matters.
        mend: the command that mends it.
    """

    dimension: str
    severity: str
    title: str
    why: str
    mend: str

    def titled(self, count: int) -> str:
        """Number and title, `1 row with ...` or `2 rows with ...`."""
        title = (
            self.title if count != 1 else _PLURAL.sub(lambda match: _SINGULAR[match.group()], self.title, 1)
        )
        return f"{count:,} {title}"


_SINGULAR = {
    **{"rows": "row", "lines": "line", "answers": "answer", "prompts": "prompt", "places": "place"},
    **{"copies": "copy"},
}
_PLURAL = re.compile(rf"\b(?:{'|'.join(_SINGULAR)})\b")

KINDS: dict[str, Kind] = {
    "bad_bytes": Kind(
        *("reading", "error", "lines with bytes that are not UTF-8"),
        "The text after such a byte is not what its author wrote; training refuses the file.",
        "iconv -f WINDOWS-1252 -t UTF-8 {file} > {clean}",
    ),
    "not_json": Kind(
        *("reading", "error", "lines of broken JSON"),
        "The row is lost, and training refuses the file until it is mended or left out.",
        _FORMAT,
    ),
    "not_a_number": Kind(
        *("reading", "error", "rows with NaN or Infinity"),
        "JSON has no such number; other tools read null, text, or nothing at all.",
        _FORMAT,
    ),
    "duplicate_key": Kind(
        *("reading", "error", "rows with a key that stands twice"),
        "Which of the two counts depends on the tool that reads the file.",
        _SKIP,
    ),
    "too_deep": Kind(
        *("reading", "error", "rows nested too deeply"),
        "No training row looks like this; it can bring other readers down.",
        _SKIP,
    ),
    "too_large": Kind(
        *("reading", "error", "rows too large to be rows"),
        "A line break is missing, or the file is no data file.",
        _SKIP,
    ),
    "not_an_object": Kind(
        *("reading", "error", "rows without named fields"),
        "A row needs named fields, so that prompt and answer can be told apart.",
        _SKIP,
    ),
    "wrong_columns": Kind(
        *("reading", "error", "CSV rows unlike the header"),
        "A quote or a comma is missing, so values stand under the wrong names.",
        _SKIP,
    ),
    "damaged": Kind(
        *("reading", "error", "places where the file breaks off"),
        "Everything behind it is missing, most likely because a download stopped.",
        "fetch the file again",
    ),
    "few_rows": Kind(
        *("quantity", "warning", "usable rows only"),
        "A style or format needs about 100 to 500 rows, a domain 5,000 to 10,000.",
        "tunesmith data generate --list",
    ),
    "empty_prompt": Kind(
        *("quality", "error", "rows with an empty prompt"),
        "The model would learn to say this to anybody.",
        _CLEAN,
    ),
    "empty_answer": Kind(
        *("quality", "error", "rows with an empty answer"),
        "The model would learn to say nothing.",
        _CLEAN,
    ),
    "placeholder": Kind(
        *("quality", "warning", "rows with a placeholder in place of a text"),
        "The model reads `<noinput>` and the like as words, and writes them one day.",
        f"{_CLEAN} --with placeholder_rows",
    ),
    "unrendered": Kind(
        *("quality", "error", "rows with a template field nobody filled in"),
        "The model will answer with the braces.",
        f"{_CLEAN} --fill name=VALUE",
    ),
    "special_token": Kind(
        *("quality", "warning", "rows with a control token written out"),
        "Other tools end the answer there; here it stays text, and is learned as text.",
        _CLEAN,
    ),
    "only_special_tokens": Kind(
        *("quality", "error", "answers empty but for a control token"),
        "Once the token is removed nothing is left to learn.",
        _CLEAN,
    ),
    "html": Kind(
        *("quality", "warning", "rows with remnants of HTML"),
        "The model will write tags and entities where people expect text.",
        f"{_CLEAN} --with html",
    ),
    "mojibake": Kind(
        *("quality", "warning", "rows with wrongly decoded characters"),
        "The words are broken for the model, and it learns to write them so.",
        _CLEAN,
    ),
    "zero_width": Kind(
        *("quality", "warning", "rows with invisible characters"),
        "They split words into other tokens, and nobody sees why.",
        _CLEAN,
    ),
    "homoglyph": Kind(
        *("quality", "warning", "rows with look-alike letters of another alphabet"),
        "The word looks right and is another one to the model.",
        _CLEAN,
    ),
    "control_character": Kind(
        *("quality", "warning", "rows with control characters"),
        "They have no meaning in a text and disturb terminals and other tools.",
        _CLEAN,
    ),
    "refusal": Kind(
        *("quality", "warning", "answers with a refusal, or with talk of being an AI"),
        "A few of them teach a model to refuse what it was fine-tuned to do.",
        f"{_CLEAN} --with refusals",
    ),
    "truncated_answer": Kind(
        *("quality", "warning", "answers broken off"),
        "The model learns to stop in the middle of a sentence.",
        f"{_CLEAN} --with truncated",
    ),
    "duplicate_row": Kind(
        *("diversity", "warning", "exact copies of an earlier row"),
        "Each copy is learned once more, and is a leak when rows are split by other tools.",
        _CLEAN,
    ),
    "near_duplicate": Kind(
        *("diversity", "warning", "near copies of an earlier row"),
        "They add little, and put almost the same row on both sides of a split.",
        _CLEAN,
    ),
    "repeated_prompt": Kind(
        *("diversity", "note", "rows whose prompt occurs more than once"),
        "Several answers to one prompt are fine if that is meant; a split must keep them together.",
        _SPLIT,
    ),
    "conflicting_answers": Kind(
        *("diversity", "warning", "rows whose prompt has other answers elsewhere"),
        "For a task with one right answer they contradict each other.",
        _LOOK,
    ),
    "same_opening": Kind(
        *("diversity", "note", "sampled prompts with the same first three words"),
        "A narrow file teaches its own phrasing; other phrasings of the task should occur too.",
        "tunesmith data generate --perturb {file} {clean}",
    ),
    "unknown_shape": Kind(
        *("consistency", "error", "rows of no known shape"),
        "Prompt and answer cannot be told apart; name the keys with `--columns`.",
        "tunesmith data check {file} --columns instruction=KEY output=KEY",
    ),
    "ambiguous_shape": Kind(
        *("consistency", "error", "rows with the fields of several shapes"),
        "It is not certain which fields are meant; choose with `--format`.",
        _CONVERT,
    ),
    "mixed_shapes": Kind(
        *("consistency", "note", "rows of another shape than most"),
        "Allowed here, since each row is recognised by itself; other tools read one shape a file.",
        _CONVERT,
    ),
    "roles_out_of_order": Kind(
        *("consistency", "error", "rows whose turns are out of order"),
        "User and assistant must alternate and an answer must come last, or the template fails.",
        _SKIP,
    ),
    "unknown_role": Kind(
        *("consistency", "error", "rows with a role that is not trained here"),
        "Known are system, user and assistant; calls of tools are not trained.",
        _SKIP,
    ),
    "wrong_type": Kind(
        *("consistency", "error", "rows with a value of the wrong type"),
        "A text must be text; numbers and null in its place are read differently by every tool.",
        _SKIP,
    ),
    "media": Kind(
        *("consistency", "error", "rows with parts that are no text"),
        "Only text is trained.",
        _SKIP,
    ),
    "loss_weight": Kind(
        *("consistency", "error", "rows with a loss weight"),
        "All answers count the same here.",
        _SKIP,
    ),
    "unusable": Kind(
        *("consistency", "error", "unusable rows"),
        "Training refuses them.",
        _SKIP,
    ),
    "preference_pair": Kind(
        *("consistency", "note", "rows with a chosen and a rejected answer"),
        "They are made to train preferences, which is not done here.",
        "keep prompt and chosen answer of each as an ordinary row",
    ),
    "rated_answer": Kind(
        *("consistency", "warning", "rows whose answer is marked as bad"),
        "A file of ratings read as examples would teach the bad answers too.",
        "keep the rows whose label is true, in a file of their own",
    ),
    "empty_tools": Kind(
        *("consistency", "note", "rows whose list of tools is empty"),
        "Nothing is wrong with them; they teach to answer without a tool.",
        _LOOK,
    ),
    "mixed_language": Kind(
        *("consistency", "warning", "rows in another language than most"),
        "If it is not meant, the model will answer in the wrong language now and then.",
        _LOOK,
    ),
    "format_drift": Kind(
        *("consistency", "error", "answers without valid JSON in a file of JSON answers"),
        "Each one teaches that broken JSON is a fine answer.",
        _LOOK,
    ),
    "too_long": Kind(
        *("length", "warning", "rows longer than `max_length`"),
        "Their answers would be cut; training refuses them until they are dropped, cut, or given room.",
        f"{_CLEAN} --max-length {{max_length}}",
    ),
    "answer_lost": Kind(
        *("length", "error", "rows of which no answer would be left after cutting"),
        "The prompt alone fills `max_length`, so nothing would be learned.",
        f"{_CLEAN} --max-length {{max_length}}",
    ),
    "secret": Kind(
        *("privacy", "error", "rows with what looks like a key or password token"),
        "A model can repeat it to anybody; the key should be revoked.",
        f"{_CLEAN} --with secrets",
    ),
    "email": Kind(
        *("privacy", "warning", "rows with an e-mail address"),
        "Personal data; a model can repeat it to anybody.",
        f"{_CLEAN} --with emails",
    ),
    "card_number": Kind(
        *("privacy", "error", "rows with a payment card's number"),
        "Personal data; a model can repeat it to anybody.",
        f"{_CLEAN} --with secrets",
    ),
}

"""The one configuration: YAML keys, command-line flags and the reference page all come from here.

A field's docstring is its help text. Names that go to Hugging Face are Hugging Face's names.
Knows nothing of models, data or devices; checking a value against them is for whoever uses it.
Read next: `pipeline.py`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Size = Annotated[float, Field(ge=0)]


METHOD_NAMES = ("full", "lora", "qlora", "prefix", "adapter")
# The default elsewhere is the one of LoRA.
LEARNING_RATES = {"full": 2e-5, "prefix": 3e-2, "adapter": 1e-3}
LOW_RANK = ("lora", "qlora")
METHODS_WITH = {
    "rank": LOW_RANK,
    "alpha": LOW_RANK,
    "variant": LOW_RANK,
    "target_modules": LOW_RANK,
    "dropout": (*LOW_RANK, "adapter"),
    "num_virtual_tokens": ("prefix",),
    "placement": ("adapter",),
    "reduction_factor": ("adapter",),
}


class Section(BaseModel):
    """What all sections share: frozen, strict about keys, documented field by field."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_booleans(cls, value: Any) -> Any:
        # No option is a switch, and YAML reads `yes` and `on` as true, which would count as the number 1.
        if isinstance(value, bool):
            raise ValueError("true and false are no values here; a word meant as text needs quotes")
        return value


class ModelConfig(Section):
    """The pretrained model."""

    name: str = Field("smollm2-135m", json_schema_extra={"flag": "model"})
    """The embedded `smollm2-135m`, a hub id, a local folder or a `.gguf` file."""

    revision: str | None = None
    """Branch, tag or commit of a hub model."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number type of the weights; `auto` follows the device, and trains all weights in float32 masters."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; `auto` takes the fastest there is."""


class DataConfig(Section):
    """The rows, how they are read, rendered and split."""

    path: str = Field(json_schema_extra={"flag": "data"})
    """Data file: JSON, JSONL, CSV (each also as `.gz`) or Parquet."""

    validation_file: str | None = None
    """Rows for validation loss; without it they are split off the data file."""

    test_file: str | None = None
    """Held-out rows for the evaluation; without it they are split off the data file."""

    format: Literal["auto", "instruction", "conversations", "messages", "prompt_completion"] = "auto"
    """Shape of the rows; `auto` names what it finds."""

    bad_rows: Literal["refuse", "skip"] = "refuse"
    """What to do with rows that cannot be read or used; skipped ones are counted and named."""

    columns: dict[str, str] = Field(default_factory=dict)
    """Our field names and the file's, such as `instruction=question output=answer`."""

    system: str | None = None
    """System message for rows that have none."""

    template: str = "auto"
    """Prompt template: `auto` (the model's own), `instruction`, or the path of a Jinja file."""

    max_length: Annotated[int, Field(ge=16)] = 1024
    """Longest row in tokens."""

    overlong: Literal["refuse", "drop", "truncate"] = "refuse"
    """What to do with rows above `max_length`."""

    score: Literal["answers", "all"] = "answers"
    """Which tokens the loss counts: answers with their end of turn, or all."""

    validation_size: Size = 0.1
    """Rows for validation: a fraction (at most 64 rows) or, from 1 up, a number of rows; 0 for none."""

    test_size: Size = 0.1
    """Rows held out for the evaluation: a fraction (at most 200 rows) or a number of rows; 0 for none."""

    @field_validator("validation_size", "test_size")
    @classmethod
    def _whole_rows(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("a number of rows must be whole; a fraction must be below 1")
        return value


class MethodConfig(Section):
    """What is trained. Each option belongs to some methods; the others refuse it."""

    name: Literal["full", "lora", "qlora", "prefix", "adapter"] = Field(
        "lora", json_schema_extra={"flag": "method"}
    )
    """`full`, `lora` (2106.09685), `qlora` (2305.14314), `prefix` (2101.00190), `adapter` (1902.00751)."""

    rank: Positive = 16
    """LoRA, QLoRA: rank r of the update: 8 for simple tasks, 16 to 32 for most, 64 for complex ones."""

    alpha: Annotated[float, Field(gt=0)] = 32.0
    """LoRA, QLoRA: the update is scaled by alpha / rank; usually twice the rank."""

    variant: Literal["plain", "rslora", "dora"] = "plain"
    """LoRA, QLoRA: `rslora` scales by alpha / sqrt(rank), `dora` learns magnitudes (arXiv:2402.09353)."""

    dropout: Fraction = 0.0
    """LoRA, QLoRA, adapter: dropout on the input of what is added."""

    target_modules: Literal["all-linear", "attention"] | list[str] = "all-linear"
    """LoRA, QLoRA: layers that get an update: `all-linear`, `attention`, or module names."""

    num_virtual_tokens: Positive = 32
    """Prefix: learned positions that every layer attends to."""

    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    """Adapter: behind attention and feed-forward (`houlsby`), or behind feed-forward only (`pfeiffer`)."""

    reduction_factor: Annotated[float, Field(ge=1)] = 16.0
    """Adapter: the bottleneck is the model's width divided by this."""


class TrainingConfig(Section):
    """The loop. A step is always an optimizer step."""

    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Peak learning rate of AdamW; if not given: `full` 2e-5, `prefix` 3e-2, `adapter` 1e-3, others 2e-4."""

    num_train_epochs: Annotated[float, Field(gt=0)] = 3.0
    """Passes over the training rows."""

    max_steps: Positive | None = None
    """Stop after this many steps; overrides `num_train_epochs`."""

    per_device_train_batch_size: Positive = 4
    """Rows in one forward and backward pass (micro-batch)."""

    gradient_accumulation_steps: Positive = 4
    """Micro-batches in one step."""

    gradient_checkpointing: Literal["auto", "always", "never"] = "auto"
    """Compute activations again instead of keeping them; `auto` does where they would not fit into memory."""

    optim: Literal["auto", "adamw_torch", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit"] = "auto"
    """AdamW's states: 32 or 8 bit, paged to main memory or not; `auto` is for QLoRA paged or 8-bit."""

    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after warmup."""

    warmup_ratio: Fraction = 0.05
    """Share of all steps in which the learning rate rises from 0."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay of AdamW."""

    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients with a larger norm are scaled down to it."""

    eval_steps: Positive | None = None
    """Steps between validations; by default about four in a run."""

    early_stopping_patience: Annotated[int, Field(ge=0)] = 3
    """Validations in a row without a better loss before the run stops; 0 never stops early."""

    save_steps: Positive | None = None
    """Steps between checkpoints; by default at every validation."""

    save_total_limit: Positive = 2
    """Checkpoints kept, the best one always among them."""

    seed: Annotated[int, Field(ge=0)] = 17
    """Decides splits, order, initial adapter weights, dropout and resampling."""


class EvaluationConfig(Section):
    """The proof: base and tuned on the held-out rows."""

    generate_rows: Annotated[int, Field(ge=0)] = 32
    """Held-out rows answered by both models (the loss takes all); 0 measures the loss only."""

    max_new_tokens: Positive | None = None
    """Longest answer; by default a quarter above the longest reference, at most 256 tokens."""

    answer_schema: str | None = None
    """JSON Schema file that answers should obey; how many do is a score."""

    answer_pattern: str | None = None
    """Regular expression that a whole answer should match."""

    answer_choices: list[str] = Field(default_factory=list)
    """Allowed answers; recognised by themselves where the references repeat few."""

    per_device_eval_batch_size: Positive = 16
    """Rows in one forward pass or one generation batch."""

    bootstrap_resamples: Annotated[int, Field(ge=100)] = 1000
    """Resamples behind each interval and test."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Coverage of the intervals."""

    elsewhere: Literal["measure", "skip"] = "measure"
    """Whether the tuned model is worse beside its task: one pass of each model over some 10,000 tokens."""


class RunConfig(Section):
    """Everything one run needs."""

    output_dir: str | None = None
    """Run folder; by default `runs/<data file>-<date>-<time>`."""

    model: ModelConfig = ModelConfig()
    data: DataConfig
    method: MethodConfig = MethodConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="before")
    @classmethod
    def _learning_rate_of_the_method(cls, values: Any) -> Any:
        """Methods differ by orders of magnitude in the rate that suits them."""
        method, training = (values.get(name, {}) for name in ("method", "training"))
        rate = LEARNING_RATES.get(str(method.get("name"))) if isinstance(method, dict) else None
        if rate is None or not isinstance(training, dict):
            return values
        return {**values, "training": {"learning_rate": rate, **training}}

    @model_validator(mode="after")
    def _options_of_the_method(self) -> "RunConfig":
        """An option that the chosen method does not know would do nothing."""
        method = self.method
        idle = [
            name
            for name, field in type(method).model_fields.items()
            if method.name not in METHODS_WITH.get(name, (method.name,))
            and getattr(method, name) != field.default
        ]
        if idle:
            named = ", ".join(f"`method.{name}`" for name in idle)
            raise ValueError(
                f"{named}: no effect with method `{method.name}`; leave it out or change the method"
            )
        return self

    @model_validator(mode="after")
    def _early_stopping_needs_validation(self) -> "RunConfig":
        if self.training.eval_steps and not (self.data.validation_size or self.data.validation_file):
            raise ValueError("`eval_steps` has no effect without validation rows (`validation_size` is 0)")
        return self

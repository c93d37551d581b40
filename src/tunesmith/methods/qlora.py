"""QLoRA: LoRA on all linear layers of a model whose frozen weights are held in 4 bit.

Source: Dettmers et al. 2023, arXiv:2305.14314.
"""

from peft import PeftModel
from transformers import PreTrainedModel

from tunesmith.config import MethodConfig
from tunesmith.errors import ModelError
from tunesmith.methods import lora
from tunesmith.models.four_bit import is_four_bit


def prepare(model: PreTrainedModel, settings: MethodConfig) -> PeftModel:
    """LoRA on the 4-bit model; norms and embeddings stay in the type they were loaded in, and frozen.

    Raises:
        ConfigError: as `lora.prepare`.
        ModelError: if the model is not in 4 bit.
    """
    if not is_four_bit(model):
        raise ModelError(
            f"QLoRA trains on 4-bit weights, and {type(model).__name__} has no layer in 4 bit",
            hint="train it with `--method lora`",
        )
    return lora.prepare(model, settings)

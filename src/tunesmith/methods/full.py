"""Full fine-tuning: every weight learns."""

from transformers import PreTrainedModel

from tunesmith.config import MethodConfig


def prepare(model: PreTrainedModel, settings: MethodConfig) -> PreTrainedModel:
    """`model` itself; weights that are tied stay tied and count once."""
    model.requires_grad_(True)
    return model

"""Bottleneck adapters: a small network behind each sub-layer, the model itself frozen.

Source: Houlsby et al. 2019, arXiv:1902.00751; placement `pfeiffer`: Pfeiffer et al. 2020, arXiv:2005.00247.
"""

from typing import cast

from peft import PeftModel, get_peft_model
from transformers import PreTrainedModel

from tunesmith.config import MethodConfig
from tunesmith.models.bottleneck import BottleneckConfig


def prepare(model: PreTrainedModel, settings: MethodConfig) -> PeftModel:
    """`model` with trainable adapters in its blocks; W_up starts at 0, so nothing changes yet.

    The initial W_down comes from torch's generator: seed it first.

    Raises:
        ConfigError: if the layers that end the model's sub-layers cannot be found.
    """
    config = BottleneckConfig(
        placement=settings.placement,
        reduction_factor=settings.reduction_factor,
        dropout=settings.dropout,
        task_type="CAUSAL_LM",
    )
    return cast(PeftModel, get_peft_model(model, config))

"""The terms of a memory plan and how they add up. Numbers only; `rehearse.py` finds them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Memory:
    """What a training run holds, each term at the moment of the training peak, in bytes.

    Attributes:
        weights_bytes: pretrained weights as they are held; four-bit ones packed, without their constants.
        quantization_bytes: constants of four-bit weights.
        adapter_bytes: weights that a method adds.
        gradients_bytes: of all weights that learn.
        optimizer_bytes: its states, and what its step takes for itself if the peak is there.
        activations_bytes: what the forward pass keeps for the backward pass, below the output layer.
        logits_bytes: the output layer, its loss, and their gradients.
        workspace_bytes: scratch of kernels and what the allocator cannot give out again.
        runtime_bytes: Python and its libraries before a model is there; on an accelerator, 0.
        evaluation_bytes: what losses and answers on held-out rows need beside weights.
        flops_per_micro_batch: floating-point operations of one forward and backward pass.
        parameters: of the model with what the method adds; tied ones count once.
        trainable_parameters: of these, those that learn.
        loading_bytes: peak while the weights are read, the runtime in it.
    """

    weights_bytes: int
    quantization_bytes: int
    adapter_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    logits_bytes: int
    workspace_bytes: int
    runtime_bytes: int
    evaluation_bytes: int
    flops_per_micro_batch: int
    parameters: int
    trainable_parameters: int
    loading_bytes: int = 0

    @property
    def held_bytes(self) -> int:
        """What is there before the first step and stays: weights and the runtime."""
        return self.weights_bytes + self.quantization_bytes + self.adapter_bytes + self.runtime_bytes

    @property
    def training_peak_bytes(self) -> int:
        """Most memory while training: the sum of the first nine terms."""
        return (
            self.held_bytes
            + self.gradients_bytes
            + self.optimizer_bytes
            + self.activations_bytes
            + self.logits_bytes
            + self.workspace_bytes
        )

    @property
    def evaluation_peak_bytes(self) -> int:
        """Most memory while held-out rows are measured and answered."""
        return self.held_bytes + self.evaluation_bytes

    @property
    def peak_bytes(self) -> int:
        """Most memory of the whole run."""
        return max(self.loading_bytes, self.training_peak_bytes, self.evaluation_peak_bytes)

"""How the terms of a plan add up."""

from dataclasses import fields

from tunesmith.planning.terms import Memory

TERMS = [field.name for field in fields(Memory)][:9]


def memory(**changes):
    zeros = {field.name: 0 for field in fields(Memory)}
    return Memory(**{**zeros, **changes})


def test_the_training_peak_is_the_sum_of_the_first_nine_terms():
    found = memory(**{name: 10**index for index, name in enumerate(TERMS)}, evaluation_bytes=10**9)
    assert found.training_peak_bytes == 111_111_111


def test_evaluation_needs_what_is_held_and_its_own():
    found = memory(**{name: 10**index for index, name in enumerate(TERMS)}, evaluation_bytes=10**9)
    held = found.weights_bytes + found.quantization_bytes + found.adapter_bytes + found.runtime_bytes
    assert found.held_bytes == held
    assert found.evaluation_peak_bytes == held + 10**9


def test_the_peak_is_the_highest_of_the_three():
    assert memory(activations_bytes=3, evaluation_bytes=2, loading_bytes=1).peak_bytes == 3
    assert memory(activations_bytes=1, evaluation_bytes=3, loading_bytes=2).peak_bytes == 3
    assert memory(activations_bytes=1, evaluation_bytes=2, loading_bytes=3).peak_bytes == 3

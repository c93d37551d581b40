from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.evaluation.metrics import numeric_metric
from tunesmith.evaluation.numeric_answers import answered_number, is_numeric_answer


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", "42"),
        ("The answer is 42.", "42"),
        ("12 + 30 = 42", "42"),
        ("first 3, then 1,234,567.50 dollars", "1234567.5"),
        ("1\u202f234 km", "1234"),
        ("it is -5", "-5"),
        ("it is −5", "-5"),
        ("from 5-3", "3"),
        ("$.50", "0.5"),
        ("6.02e23", "6.02e23"),
        ("She has 7 left, so 7/2...\n#### 3.5 (half of 7)", "3.5"),
        ("#### 1 is wrong\n#### 2", "2"),
        ("12,3456", "3456"),
        ("共42个", "42"),
        ("共４２个", "42"),
        ("17th", "17"),
        ("x2 is 9", "9"),
        ("9, says A-17 of v2.0", "9"),
        ("no number", None),
        ("", None),
        ("3 apples ####", None),
    ],
)
def test_the_number_a_text_answers_with(text, number):
    assert answered_number(text) == (None if number is None else Decimal(number))


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=3))
def test_any_number_is_found_however_it_is_written(number):
    assert answered_number(f"After 3 steps it is {number:f}.") == number
    assert answered_number(f"After 3 steps it is {number:,f} in all") == number
    assert answered_number(f"#### {number:f}\nThat took 3 steps") == number


@given(st.text(max_size=40))
def test_no_text_is_too_strange(text):
    number = answered_number(text)
    assert number is None or number.is_finite()


@pytest.mark.parametrize(
    ("text", "is_numeric"),
    [
        ("42", True),
        ("42 apples", True),
        ("It is 42.", True),
        ("共42个", True),
        ("Half of 8 is 4, and 4 plus 3 is 7.\n#### 7", True),
        ("#### none", False),
        ("2024-05-03", False),
        ("12 + 30 = 42", False),
        ("The parcel was sent on day 3 of May", False),
        ("A-17", False),
        ("none", False),
    ],
)
def test_which_references_are_about_their_number(text, is_numeric):
    assert is_numeric_answer(text) is is_numeric


def test_equal_numbers_count_whatever_is_around_them():
    predictions = ["I think 1,000.0", "100", "none", "it is 3 or 4", "4"]
    references = [["#### 1000"], ["1000"], ["7"], ["3"], ["3", "4 pieces"]]
    assert numeric_metric().statistics(predictions, references)[:, 0].tolist() == [1, 0, 0, 0, 1]

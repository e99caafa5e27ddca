"""Replaced attributes are there in the block and gone after it, however it ends."""

from __future__ import annotations

import pytest

from recbole_tinykg.compat import replaced


class Number:
    value = 1


def test_own_attribute_comes_back():
    number = Number()
    number.value = 2
    with replaced(number, value=3, other=4):
        assert (number.value, number.other) == (3, 4)
    assert vars(number) == {"value": 2}


def test_attribute_of_the_class_comes_from_the_class_again():
    number = Number()
    with replaced(number, value=3):
        assert number.value == 3
    assert number.value == 1
    assert vars(number) == {}


def test_block_that_fails_leaves_nothing():
    number = Number()
    with pytest.raises(ZeroDivisionError), replaced(number, value=3):
        raise ZeroDivisionError
    assert number.value == 1

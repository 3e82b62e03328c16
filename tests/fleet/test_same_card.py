"""Two tools write a card's place differently, and mean the same one."""

import pytest

from llamahost.fleet.devices import is_same_card


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("00000000:c1:00.0", "0000:C1:00.0", True),
        ("0001:c1:00.0", "0000:c1:00.0", False),
        ("0000:c1:00.0", "0000:c2:00.0", False),
        ("", "", False),
        ("", "0000:c1:00.0", False),
        ("none", "none", False),
    ],
)
def test_a_card_is_known_by_its_numbers(one: str, other: str, is_same: bool) -> None:
    assert is_same_card(one, other) is is_same

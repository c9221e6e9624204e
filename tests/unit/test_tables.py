"""Two rooms that may not know each other keep tables that must agree."""

from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard.frontend import PASSED_ON, PINNED
from torchserve_guard.proxy.address import Address
from torchserve_guard.settings import address
from torchserve_guard.settings.keys import KEYS, Fate


def test_what_the_settings_hand_on_is_what_the_frontend_takes():
    assert {key.name for key in KEYS.values() if key.fate is Fate.PASS} == PASSED_ON


def test_what_the_frontend_pins_the_settings_never_hand_on():
    assert not [name for name in PINNED if name in KEYS and KEYS[name].fate is Fate.PASS]


@given(st.from_regex(address.ADDRESS, fullmatch=True).filter(lambda text: "\0" not in text))
def test_an_address_that_the_settings_take_is_one_that_the_door_can_listen_on(text):
    try:
        told = address.parse(text)
    except ValueError:
        return
    door = Address.parse(str(told))
    assert (door.host or None, door.port or None, door.path) == (told.host, told.port, told.path)
    assert door.secure == (told.scheme == "https")

"""Two rooms that may not know each other keep tables that must agree."""

from torchserve_guard.frontend import PASSED_ON, PINNED
from torchserve_guard.settings.keys import KEYS, Fate


def test_what_the_settings_hand_on_is_what_the_frontend_takes():
    assert {key.name for key in KEYS.values() if key.fate is Fate.PASS} == PASSED_ON


def test_what_the_frontend_pins_the_settings_never_hand_on():
    assert not [name for name in PINNED if name in KEYS and KEYS[name].fate is Fate.PASS]

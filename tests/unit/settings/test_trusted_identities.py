"""Trusted identities: each is a name with its issuer, in a role or in none, and says whom to believe about it."""

from __future__ import annotations

import pytest

from torchserve_guard.errors import ConfigError
from torchserve_guard.settings import Flags, Surroundings, load
from torchserve_guard.settings.trusted import TrustedIdentity, parse_identities

ALICE = "alice@example.org https://accounts.example.org"
FLOW = "https://github.com/o/r/.github/workflows/w.yml@refs/heads/main https://token.actions.githubusercontent.com"


@pytest.fixture
def told(tmp_path):
    def settings(*lines: str):
        config = tmp_path / "config.properties"
        config.write_text("\n".join([f"model_store={tmp_path}", f"guard.state_dir={tmp_path}/state", *lines]))
        return load(config, Flags(), Surroundings({}, tmp_path, tmp_path))

    return settings


def test_a_name_and_an_issuer_are_trusted_in_a_role_or_in_none():
    assert parse_identities(f"release = {ALICE}, {FLOW}") == (
        TrustedIdentity("alice@example.org", "https://accounts.example.org", "release"),
        TrustedIdentity(*FLOW.split(), None),
    )


@pytest.mark.parametrize(
    "text", ["", ",", f"{ALICE},", "alice@example.org", "alice@example.org accounts.example.org", f"a b {ALICE}", "= x"]
)
def test_what_is_no_name_with_its_issuer_is_refused(text):
    with pytest.raises(ValueError, match="is not a list"):
        parse_identities(text)


def test_one_signature_is_asked_for_where_an_identity_is_trusted(told, tmp_path):
    found = told(f"guard.trusted_identities={ALICE}", "guard.sigstore_root=root.json")
    assert (found.signature_threshold, found.sigstore_root) == (1, tmp_path / "root.json")


def test_a_role_may_be_held_by_an_identity(told):
    lines = (f"guard.trusted_identities=release={ALICE}", "guard.sigstore_root=root.json")
    assert told(*lines, "guard.signature_threshold=release").signature_roles == ("release",)
    with pytest.raises(ConfigError, match="the role `security`, which"):
        told(*lines, "guard.signature_threshold=release,security")


def test_an_identity_needs_somebody_to_believe_about_it_and_the_other_way_round(told):
    with pytest.raises(ConfigError, match=r"guard\.sigstore_root` does not say"):
        told(f"guard.trusted_identities={ALICE}")
    with pytest.raises(ConfigError, match=r"has no effect: name whom to trust in `guard\.trusted_identities`"):
        told("guard.sigstore_root=root.json")

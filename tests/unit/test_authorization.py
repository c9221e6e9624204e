"""The manifest that counts for some settings: signed as demanded, and not older than the last one started."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pki
import pytest
import transparency

from torchserve_guard import archives, authorization
from torchserve_guard.archives.signing import bundle, signature, statement
from torchserve_guard.errors import ConfigError, VerificationError
from torchserve_guard.settings import Flags, Surroundings, load

KEY = pki.key()
SUBJECT = archives.SubjectEntry(name="m.mar", kind="mar", size=1, sha256="0" * 64, members=())


class Place:
    """A model store with a manifest, and the settings that tell of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.store.mkdir()
        self.manifest = self.store / "tsguard-manifest.json"
        pki.written(folder / "release.pub", pki.public_pem(KEY))

    def put(self, version: int, *, expires: timedelta | None = timedelta(days=90), name: str = "m.mar") -> None:
        """The manifest of a version, and its signature."""
        made = archives.Manifest(
            schema="tsguard-manifest/1",
            version=version,
            created=pki.NOW,
            expires=pki.NOW + expires if expires is not None else None,
            subjects=(SUBJECT.model_copy(update={"name": name}),),
        )
        self.manifest.write_bytes(archives.render_manifest(made))
        signed = signature.sign(statement.of_file("m", self.manifest.read_bytes()), KEY)
        (self.store / "tsguard-manifest.json.k.sigstore.json").write_bytes(bundle.render(signed))

    def settings(self, **keys: str):
        lines = {"model_store": str(self.store), "guard.state_dir": str(self.folder / "state")} | {
            name.replace("guard_", "guard."): value for name, value in keys.items()
        }
        config = self.folder / "config.properties"
        config.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        return load(config, Flags(), Surroundings({}, self.folder, self.folder))

    def signed(self, **keys: str):
        return self.settings(guard_trusted_keys="release.pub", **keys)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def rules(settings, found, now=pki.NOW):
    return [finding.rule for finding in authorization.check(settings, found, now)]


def test_an_older_version_than_the_last_one_started_is_refused(place):
    settings = place.signed()
    place.put(3)
    authorization.remember(authorization.authorized(settings, pki.NOW))
    authorization.authorized(settings, pki.NOW)
    place.put(2)
    with pytest.raises(VerificationError, match="version 2 of the manifest is older than version 3"):
        authorization.authorized(settings, pki.NOW)
    place.put(4)
    assert authorization.authorized(settings, pki.NOW).manifest.version == 4


def test_only_what_was_started_counts_and_not_what_was_looked_at(place):
    settings = place.signed()
    place.put(3)
    authorization.authorized(settings, pki.NOW)
    place.put(2)
    assert authorization.authorized(settings, pki.NOW).manifest.version == 2


def test_a_rollback_may_be_forced_and_is_told_and_is_then_the_last_one(place):
    settings = place.signed()
    place.put(3)
    authorization.remember(authorization.authorized(settings, pki.NOW))
    place.put(2)
    found = authorization.authorized(settings, pki.NOW, allow_rollback=True)
    assert "older than version 3" in found.overruled
    assert rules(settings, found) == ["TSG094"]
    authorization.remember(found)
    assert authorization.authorized(settings, pki.NOW).overruled is None


def test_a_flag_that_was_needed_for_nothing_is_told(place):
    settings = place.signed()
    place.put(3)
    first = authorization.authorized(settings, pki.NOW, allow_rollback=True)
    assert rules(settings, first) == ["TSG096"]
    authorization.remember(first)
    assert rules(settings, authorization.authorized(settings, pki.NOW, allow_rollback=True)) == ["TSG096"]
    assert rules(settings, authorization.authorized(settings, pki.NOW)) == []


def test_another_configuration_knows_what_was_started_by_this_one(place, monkeypatch):
    settings = place.signed()
    place.put(5)
    authorization.remember(authorization.authorized(settings, pki.NOW))
    place.put(4)
    (place.folder / "v4").mkdir()
    (place.folder / "link").symlink_to(place.folder)
    others = [place.folder / path for path in ("v4/../config.properties", "link/config.properties", "other.properties")]
    for other in others:
        other.write_text((place.folder / "config.properties").read_text())
        around = Surroundings({}, place.folder, place.folder)
        with pytest.raises(VerificationError, match="older than version 5"):
            authorization.authorized(load(other, Flags(), around), pki.NOW)
    for store in (f"{place.folder}/v4/../store", f"{place.folder}/link/store"):
        with pytest.raises(VerificationError, match="older than version 5"):
            authorization.authorized(place.signed(model_store=store), pki.NOW)


def test_one_authority_in_two_roles_that_are_asked_for_is_told(place):
    root = pki.ROOT.by()
    pki.written(place.folder / "root.pem", root.pem)
    place.put(1)
    for name in ("Alice", "Bob"):
        held = pki.SIGNER.but(name=name).by(root)
        made = signature.sign(statement.of_file("m", place.manifest.read_bytes()), held.key, [held.certificate])
        (place.store / f"tsguard-manifest.json.{name}.sigstore.json").write_bytes(bundle.render(made))
    (place.store / "tsguard-manifest.json.k.sigstore.json").unlink()
    trusted = {"guard_trusted_keys": "release=root.pem,security=root.pem"}
    for threshold, told in (("release,security", ["TSG095"]), ("2", []), ("release", [])):
        settings = place.settings(**trusted, guard_signature_threshold=threshold)
        assert rules(settings, authorization.authorized(settings, pki.NOW)) == told


def test_a_forced_rollback_forces_nothing_else(place):
    settings = place.signed()
    place.put(2)
    place.manifest.write_bytes(place.manifest.read_bytes() + b" ")
    with pytest.raises(VerificationError, match="signs something else"):
        authorization.authorized(settings, pki.NOW, allow_rollback=True)


def test_two_signed_manifests_of_one_version_are_one_too_many(place):
    settings = place.signed()
    place.put(3)
    authorization.remember(authorization.authorized(settings, pki.NOW))
    place.put(3, name="n.mar")
    with pytest.raises(VerificationError, match="with other contents"):
        authorization.authorized(settings, pki.NOW)
    # Where nobody needs to sign, whoever writes the manifest may as well write its version.
    assert authorization.authorized(place.settings(), pki.NOW).manifest.version == 3


def test_sums_in_the_place_of_a_manifest_are_older_than_any(place):
    settings = place.settings()
    place.put(1)
    authorization.remember(authorization.authorized(settings, pki.NOW))
    place.manifest.write_text(f"{'0' * 64}  m.mar\n")
    with pytest.raises(VerificationError, match="version 0"):
        authorization.authorized(settings, pki.NOW)


def test_a_broken_memory_is_overruled_by_the_flag_alone(place):
    settings = place.signed()
    place.put(1)
    found = authorization.authorized(settings, pki.NOW)
    authorization.remember(found)
    (memory,) = (place.folder / "state" / "manifests").iterdir()
    memory.write_bytes(b"{}")
    with pytest.raises(VerificationError, match="--allow-rollback"):
        authorization.authorized(settings, pki.NOW)
    forced = authorization.authorized(settings, pki.NOW, allow_rollback=True)
    authorization.remember(forced)
    assert authorization.authorized(settings, pki.NOW) == found


def test_one_signature_is_asked_for_where_a_key_is_trusted_and_none_where_none_is(place):
    assert place.settings().signature_threshold == 0
    assert place.signed().signature_threshold == 1
    settings = place.signed(guard_signature_threshold="0")
    assert settings.signature_threshold == 0


def test_keys_with_roles_are_read_as_they_are_spelt(place):
    settings = place.settings(
        guard_trusted_keys="release=release.pub, security = /etc/s=1.pem",
        guard_signature_threshold="release, security",
    )
    assert [(key.role, key.path) for key in settings.trusted_keys] == [
        ("release", place.folder / "release.pub"),
        ("security", Path("/etc/s=1.pem")),
    ]
    assert (settings.signature_threshold, settings.signature_roles) == (2, ("release", "security"))


@pytest.mark.parametrize(
    ("keys", "threshold", "why"),
    [
        ("", "1", "empty path"),
        ("a.pub,,b.pub", "1", "empty path"),
        (",".join(["a.pub"] * 33), "1", "more than 32"),
        ("a.pub", "-1", "neither a number nor"),
        ("a.pub", "1.5", "neither a number nor"),
        ("a.pub", "", "neither a number nor"),
        ("a.pub", "release", "which no key has"),
        ("release=a.pub", "release,security", "`security`, which no key has"),
    ],
)
def test_a_demand_that_nobody_could_meet_or_read_is_a_complaint(keys, threshold, why, place):
    with pytest.raises(ConfigError, match=why):
        place.settings(guard_trusted_keys=keys, guard_signature_threshold=threshold)


def test_a_threshold_without_keys_is_a_complaint(place):
    with pytest.raises(ConfigError, match="names nobody who could give one"):
        place.settings(guard_signature_threshold="1")


def test_the_identities_of_the_settings_are_asked_for(place):
    world = transparency.World()
    pki.written(place.folder / "root.json", world.trusted())
    who = {"guard_trusted_identities": f"release={transparency.NAME} {transparency.ISSUER}"}
    settings = place.settings(**who, guard_sigstore_root="root.json")
    place.put(1)
    with pytest.raises(VerificationError, match="signed by nobody whose word counts"):
        authorization.authorized(settings, pki.NOW)
    stated = statement.render(statement.of_file("m", place.manifest.read_bytes()))
    signed = place.store / "tsguard-manifest.json.alice.sigstore.json"
    signed.write_text(json.dumps(world.bundle(stated)))
    (signer,) = authorization.authorized(settings, pki.NOW).authorized.signers
    assert (signer.roles, signer.identity) == ({"release"}, True)
    looked = place.settings(**who, guard_sigstore_root="root.json", guard_signature_threshold="0")
    assert "TSG090" in rules(looked, authorization.authorized(looked, pki.NOW))
    (place.folder / "root.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be used as a trusted root"):
        authorization.authorized(settings, pki.NOW)


def test_what_is_to_be_said_of_a_manifest_is_said(place):
    place.put(1)
    cases = {
        (): place.signed(),
        ("TSG090",): place.signed(guard_signature_threshold="0"),
    }
    for expected, settings in cases.items():
        assert rules(settings, authorization.authorized(settings, pki.NOW)) == list(expected)
    assert rules(place.settings(), authorization.authorized(place.settings(), pki.NOW)) == []
    settings = place.signed()
    place.put(2, expires=None)
    assert rules(settings, authorization.authorized(settings, pki.NOW)) == ["TSG092"]
    place.put(2, expires=timedelta(days=13))
    assert rules(settings, authorization.authorized(settings, pki.NOW)) == ["TSG093"]
    (place.store / "tsguard-manifest.json.old.sigstore.json").write_text("{}")
    place.put(2)
    assert rules(settings, authorization.authorized(settings, pki.NOW)) == ["TSG091"]


def test_a_certificate_that_ends_soon_is_told(place):
    root = pki.ROOT.by()
    held = pki.SIGNER.but(ends=pki.NOW + timedelta(days=5)).by(root)
    pki.written(place.folder / "root.pem", root.pem)
    place.put(1)
    signed = signature.sign(statement.of_file("m", place.manifest.read_bytes()), held.key, [held.certificate])
    (place.store / "tsguard-manifest.json.k.sigstore.json").write_bytes(bundle.render(signed))
    settings = place.settings(guard_trusted_keys="root.pem")
    found = authorization.authorized(settings, pki.NOW)
    (finding,) = authorization.check(settings, found, pki.NOW)
    assert finding.rule == "TSG093"
    assert "release@example.org" in finding.message
    assert found.authorized.signers[0].until == held.certificate.not_valid_after_utc

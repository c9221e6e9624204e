"""The laws: for each reader, what must hold of any bytes at all; one function each, which raises when it does not.

Refused is always well, with an error of ours. What is accepted must be what every other reader shows.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pki
import transparency
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from fuzz import choices, views

from torchserve_guard.archives import manifest as manifests
from torchserve_guard.archives import mar, model_config, names, reading, trees
from torchserve_guard.archives.digests import Crew
from torchserve_guard.archives.document import Malformed
from torchserve_guard.archives.limits import Limits
from torchserve_guard.archives.signing import bundle, keyless, signature, statement, trust, trusted_root
from torchserve_guard.archives.signing.demand import Identity
from torchserve_guard.archives.signing.rejection import Rejected
from torchserve_guard.errors import ConfigError, VerificationError

Law = Callable[[bytes], None]

LIMITS = Limits(
    members=200, unpacked=4 << 20, ratio=200, ratio_floor=1 << 20, directory=64 << 10, mar_manifest=64 << 10
)
"""Small ones, so that they are met."""

SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None


class Scales:
    """A sink that weighs what passes through; it is read at the end, since a refusal may hide what is raised here."""

    def __init__(self, behind: trees.TreeWriter) -> None:
        self._behind = behind
        self._members = self._bytes = self._expected = 0

    def read(self) -> None:
        """Raise when more has passed than the limits allow, accepted or not."""
        assert self._members <= LIMITS.members
        assert max(self._bytes, self._expected) <= LIMITS.unpacked

    def expect(self, size: int) -> None:
        self._expected = max(self._expected, size)
        self._behind.expect(size)

    def open(self, path: str) -> None:
        self._members += 1
        self._behind.open(path)

    def write(self, data: bytes | memoryview) -> None:
        self._bytes += len(data)
        self._behind.write(data)

    def close(self) -> None:
        self._behind.close()


def zipped(data: bytes) -> None:
    """An archive is refused, or a tree of exactly the files that both views of a zip show."""
    with _unpacked(data, "fuzzed.mar") as shown:
        if shown is not None:
            assert shown == views.zip_by_directory(data)
            assert shown == views.zip_by_stream(data)


def tarball(data: bytes) -> None:
    """A tarball is refused, or a tree of exactly the files that Python shows below the top directory."""
    with _unpacked(data, "fuzzed.tar.gz") as shown:
        if shown is not None:
            assert shown == views.tar_by_python(data)


PATHS = frozenset({"handler.py", "pkg/__init__.py", "pkg/deep.py", "loose/deep.py", "os/path.py", "w.pt", "empty/"})


def own_manifest(data: bytes) -> None:
    """A MANIFEST.json is refused, or names nothing but members and what is TorchServe's own."""
    try:
        mar.verify(data, PATHS, "fuzzed.mar")
        about = mar.about(data, "fuzzed.mar")
    except VerificationError:
        return
    model = json.loads(data)["model"]
    assert about.name == model["modelName"]
    for field in ("serializedFile", "modelFile", "requirementsFile", "configFile"):
        assert model.get(field) in {None, *PATHS} - {"empty/"}
    handler = model.get("handler")
    assert handler is None or handler in mar.HANDLERS or mar.resolved(handler, PATHS) in PATHS
    assert model.get("envelope") in {None, *mar.ENVELOPES}
    mar.code(data, "fuzzed.mar")


def configuration(data: bytes) -> None:
    """A model-config.yaml is told about in messages of one line; what is understood is what PyYAML understands."""
    told = model_config.findings(data, "model-config.yaml", "fuzzed.mar", "")
    assert all(len(finding.message) <= 1000 for finding in told)
    stated = model_config.stated(data)
    if stated is None:
        assert [finding.rule for finding in told] == [model_config.UNREADABLE.rule]
    else:
        assert repr(stated) == repr(yaml.safe_load(data))


def promised(data: bytes) -> None:
    """A manifest is refused, or has one spelling and no name that leads elsewhere."""
    try:
        found = manifests.parse(data, "fuzzed.json")
    except ConfigError:
        return
    for subject in found.subjects:
        assert names.subject_fault(subject.name) is None
        assert not any(names.fault(member.path) for member in subject.members)
    if found.schema_ != manifests.MODEL_SIGNING:
        spelt = manifests.render(found)
        assert manifests.parse(spelt, "spelt.json") == found
        assert manifests.render(manifests.parse(spelt, "spelt.json")) == spelt


# The same keys in every run, so that what one run found is a signature in the next.
KEY, AUTHORITY, HOLDER, ISSUING, NOTING, LOGGING = (
    ec.derive_private_key(0x5EED0 + number, ec.SECP256R1()) for number in range(6)
)
STATED = statement.of_file("tsguard-manifest.json", b"what the keys have signed, and nothing else")
ROOT = pki.ROOT.but(private=AUTHORITY).by()
SIGNER = pki.SIGNER.but(private=HOLDER).by(ROOT)
ANCHORS = (
    trust.Anchor("release.pub", "release", KEY.public_key()),
    trust.Anchor("root.pem", None, None, ROOT.certificate),
)

WORLD = transparency.World(transparency.LASTING, AUTHORITY, ISSUING, NOTING, LOGGING)
WHO = Identity("release", transparency.NAME, transparency.ISSUER)
TRUSTED = keyless.Trusted(trusted_root.parse(WORLD.trusted()), (WHO,))


@cache
def by_key() -> bytes:
    """A good signature by a key."""
    return bundle.render(signature.sign(STATED, KEY))


@cache
def by_certificate() -> bytes:
    """A good signature by a certificate."""
    return bundle.render(signature.sign(STATED, HOLDER, (SIGNER.certificate,)))


@cache
def by_identity() -> bytes:
    """A good signature by an identity."""
    return json.dumps(WORLD.bundle(statement.render(STATED), private=HOLDER)).encode()


def signed(data: bytes) -> None:
    """A bundle is refused, or it says what the holder of a trusted key has signed."""
    try:
        found = bundle.parse(data)
        stated = statement.parse(found.payload)
        trust.signer(found, ANCHORS, pki.NOW, TRUSTED)
    except (Malformed, Rejected):
        return
    assert stated == STATED
    assert found.entry is not None or bundle.parse(bundle.render(found)) == found


def believed(data: bytes) -> None:
    """A trusted root is refused, or has all that it needs, and each log is known by its own key."""
    try:
        found = trusted_root.parse(data)
    except (Malformed, Rejected):
        return
    assert found.authorities
    logs = (*found.signature_logs, *found.certificate_logs)
    assert all(log.identifier == hashlib.sha256(transparency.der(log.key)).digest() for log in logs)


LAWS: dict[str, Law] = {
    "zip": zipped,
    "zip-of-choices": lambda data: zipped(choices.zip_of(data)),
    "tarball": tarball,
    "tar": lambda data: tarball(choices.tarball_of(data)),
    "own-manifest": own_manifest,
    "model-config": configuration,
    "manifest": promised,
    "bundle": signed,
    "bundle-of-choices": lambda data: signed(choices.changed(data, (by_key(), by_certificate(), by_identity()))),
    "trusted-root": believed,
}


@contextmanager
def _unpacked(data: bytes, name: str) -> Iterator[views.View | None]:
    """Yield the files of the tree that became of the archive, None when it was refused."""
    with tempfile.TemporaryDirectory(dir=SCRATCH, prefix="tsguard-fuzz-") as folder:
        archive, tree = Path(folder, name), Path(folder, "tree")
        archive.write_bytes(data)
        tree.mkdir()
        root = os.open(tree, os.O_RDONLY)
        scales = Scales(trees.TreeWriter(root))
        try:
            subject = reading.read_subject(archive, None, scales, LIMITS)
            trees.seal(tree, subject.members)
            with Crew() as crew:
                trees.verify(tree, subject.members, crew)
            yield {one.path: Path(tree, one.path).read_bytes() for one in subject.members if one.path[-1] != "/"}
        except VerificationError as error:
            if isinstance(error, trees.Drift):
                raise
            yield None
        finally:
            scales.read()
            os.close(root)
            trees.remove(tree)
            shutil.rmtree(tree, ignore_errors=True)

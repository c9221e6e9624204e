"""Files: what the guard believes or serves, and who else may change it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from torchserve_guard.access import Mode
from torchserve_guard.findings import Severity
from torchserve_guard.settings.hardening import places
from torchserve_guard.settings.hardening.rule import Hit, Rule, Told
from torchserve_guard.settings.settings import Profile

# As many as a person reads; a store of thousands is wrong as a whole.
MOST_TOLD = 10
BELIEVED = (
    ("guard.trusted_keys", "the trusted key"),
    ("guard.sigstore_root", "the trusted root of Sigstore"),
    ("guard.policy", "the policy"),
    ("guard.waivers", "the file of waivers"),
    ("guard.client_ca", "the authority for client certificates"),
    ("guard.fetch_ca", "the authorities for hosts that archives are fetched from"),
    ("metrics_config", "the metrics configuration"),
    ("certificate_file", "the certificate"),
    ("private_key_file", "the private key"),
    ("keystore", "the key store"),
)


def _writable_by_others(told: Told) -> Iterator[Hit]:
    # INVARIANT: no key. A waiver is bound to one, and what is found here cannot be waived: it is where waivers stand.
    for path, what, severity in _believed(told):
        through = places.writer(path)
        if through is not None:
            place, who = through
            yield Hit(
                f"{what} {path} can be changed by {who}" + (f", through {place}" if place != path else ""),
                None,
                severity,
                f"chmod go-w {place}, and make it belong to root or to the user that runs the guard",
                path,
            )


def _believed(told: Told) -> Iterator[tuple[Path, str, Severity]]:
    settings = told.settings
    yield settings.config, "the configuration", Severity.HIGH
    yield settings.manifest, "the manifest", Severity.HIGH
    yield settings.state_dir, "the state directory", Severity.CRITICAL
    if settings.runtime_dir is not None:
        yield settings.runtime_dir, "the runtime directory", Severity.CRITICAL
    if not settings.audit_log.is_relative_to(settings.state_dir):
        yield settings.audit_log, "the audit log", Severity.HIGH
    if settings.access_log is not None and not settings.access_log.path.is_relative_to(settings.state_dir):
        yield settings.access_log.path, "the access log", Severity.MEDIUM
    if settings.frontend_log.startswith("/"):
        yield Path(settings.frontend_log), "the log configuration of TorchServe", Severity.CRITICAL
    for key, what in BELIEVED:
        for path in _paths(told.text(key) or ""):
            yield told.around.cwd / path, what, Severity.HIGH
    for folder in dict.fromkeys((settings.log_location, settings.metrics_location)):
        yield folder, "the folder of the logs", Severity.MEDIUM


def _paths(text: str) -> Iterator[str]:
    """Yield the paths in a list with commas; a trusted key may have its role before it, `release=/etc/key.pub`."""
    for part in filter(None, (one.strip() for one in text.split(","))):
        role, separator, path = part.partition("=")
        yield path if separator and "/" not in role else part


def _store_writable(told: Told) -> Iterator[Hit]:
    settings = told.settings
    # Without a manifest it is the store alone that says what is loaded.
    named = settings.manifest_named or os.path.lexists(settings.manifest)
    believed = settings.profile is Profile.COMPAT and not named
    severity = Severity.HIGH if believed else Severity.LOW
    through = places.chooser(settings.model_store)
    if through is not None:
        place, who = through
        message = f"the model store {settings.model_store} can be changed by {who}, through {place}"
        yield Hit(message, "model_store", severity)
        return
    for archive, (_, who) in islice(_writable(_archives(told)), MOST_TOLD):
        yield Hit(f"the archive {archive} can be changed by {who}", "model_store", severity, path=archive)


def _writable(archives: Iterable[Path]) -> Iterator[tuple[Path, tuple[Path, str]]]:
    found = ((archive, places.writer(archive)) for archive in archives)
    return ((archive, through) for archive, through in found if through is not None)


def _links(told: Told) -> Iterator[Hit]:
    if told.settings.profile is Profile.COMPAT:
        return  # it follows links, and TSG071 tells of each
    store = _real(told.settings.model_store)
    leading_out = (one for one in _archives(told) if one.is_symlink() and not _real(one).is_relative_to(store))
    for archive in islice(leading_out, MOST_TOLD):
        message = f"{archive} is a link out of the model store, to {_real(archive)}"
        yield Hit(f"{message}; stock TorchServe follows it, the guard does not load it", "model_store", path=archive)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # realpath ends on a loop of links, where resolve raises


def _archives(told: Told) -> Iterator[Path]:
    """Yield what may be loaded from the store: what is named, or all where all may be."""
    settings = told.settings
    if settings.load is not None and settings.mode is Mode.NONE:
        names = [item.archive for item in settings.load]
    else:
        names = _names(settings.model_store)
    yield from (settings.model_store / name for name in names)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []  # preflight says that the store cannot be read


RULES = (
    Rule(
        "TSG007",
        Severity.HIGH,
        "who can write the manifest decides which code runs, and who can write the state directory what was recorded",
        "make it belong to root or to the user that runs the guard, and writable by nobody else",
        ("H12", "H20", "H21", "L03"),
        _writable_by_others,
        also=(Severity.CRITICAL, Severity.MEDIUM),
    ),
    Rule(
        "TSG042",
        Severity.LOW,
        "an archive counts for its digest only, and others can stop a start; without a manifest they decide what runs",
        "make the model store belong to root or to the user that runs the guard, and writable by nobody else",
        ("H12", "H21"),
        _store_writable,
        also=(Severity.HIGH,),
    ),
    Rule(
        "TSG043",
        Severity.MEDIUM,
        "what is loaded is then decided in a place that nobody looks at",
        "copy the archive into the model store",
        ("H11", "H12", "H22"),
        _links,
    ),
)

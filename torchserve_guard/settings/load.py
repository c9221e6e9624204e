"""Loading: file, flags and environment into `Settings`, with every complaint collected before failing.

A flag beats the file, as in TorchServe. The environment is read only where the file asks for it
(`$$NAME$$`, `enable_envvars_config`) and for the folders of the guard and of the logs.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import cast

from torchserve_guard import looks, origin
from torchserve_guard.access import Mode
from torchserve_guard.errors import ConfigError
from torchserve_guard.findings import Severity
from torchserve_guard.settings import (
    certificates,
    differences,
    fetching,
    grpc_listeners,
    hardening,
    honoured,
    jvm,
    keystore,
    listeners,
    named_models,
    properties,
    trusted,
)
from torchserve_guard.settings.address import Address
from torchserve_guard.settings.hardening import places
from torchserve_guard.settings.keys import KEYS, Fate, Kind
from torchserve_guard.settings.reading import Flags, Reading, Surroundings
from torchserve_guard.settings.settings import AccessFile, ArchiveLimits, Limits, LoadItem, Profile, Settings
from torchserve_guard.settings.stock.disk import RealDisk
from torchserve_guard.terms import Terms

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,254}")
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
FAIL_ON = {Profile.STRICT: "high", Profile.COMPAT: "critical"}
MOST_COMPLAINTS = 200
MOST_WORKERS = 64
WORKERS = re.compile(r"[0-9]{1,4}", re.ASCII)
NO_ACCESS_LOG = "off"


def load(config: Path, flags: Flags, around: Surroundings) -> Settings:
    """Return the settings. Raises one `ConfigError` that carries every complaint."""
    data = _said(config)
    found = properties.parse(data, str(config))
    reading, settings = examined(config, found, flags, around)
    if reading.complaints:
        raise ConfigError.of(_few(reading.complaints))
    told_twice = differences.check(config, data, around.environment, RealDisk(around.cwd))
    findings = (*reading.findings, *told_twice, *hardening.check(hardening.Told(settings, reading.given, around)))
    return _with_waivers(dataclasses.replace(settings, findings=findings), reading, found)


def examined(
    config: Path, found: tuple[properties.Property, ...], flags: Flags, around: Surroundings
) -> tuple[Reading, Settings]:
    """Return what was read, acceptable or not: its complaints tell, and have a default in their place."""
    reading = Reading(config, around)
    reading.take_file(found)
    reading.take_flags(flags)
    reading.take_variables()
    _refuse_no_text(reading)
    settings = _settings(reading)
    honoured.check(reading, settings.model_store)
    return reading, settings


def _with_waivers(settings: Settings, reading: Reading, found: tuple[properties.Property, ...]) -> Settings:
    """Return the settings with the waivers that the file names. Raises `ConfigError`."""
    if "guard.waivers" not in reading.given:
        return settings
    from torchserve_guard.settings import waiver_file  # noqa: PLC0415 - heavy; most configurations do without

    path = reading.path("guard.waivers", Path())
    waivers = waiver_file.read(path)
    # INVARIANT: what others can write waives nothing; the rule TSG007 says so.
    if places.writer(path) is not None:
        return settings
    written = {item.key: item.value for item in found}
    given = {name: one.text for name, one in reading.given.items()}
    return dataclasses.replace(settings, waivers=waivers, texts={**reading.around.environment, **written, **given})


def _said(config: Path) -> bytes:
    """Return the bytes of the file; an empty one is what an unfinished write leaves behind, and is refused."""
    data = properties.bytes_of(config)
    if not data.strip():
        raise ConfigError(f"{config}: is empty; write the configuration, or a comment if nothing is to be said")
    return data


def _few(complaints: list[str]) -> list[str]:
    """Return no more complaints than anybody would read."""
    more = len(complaints) - MOST_COMPLAINTS
    return complaints if more <= 0 else [*complaints[:MOST_COMPLAINTS], f"and {more} complaints more"]


def _settings(reading: Reading) -> Settings:
    """Return what was read; where there was a complaint, with the default in its place."""
    _refuse_direct(reading)
    honoured.take_booleans(reading)
    profile = Profile(reading.value("guard.profile", "strict"))
    listening = listeners.read(reading)
    grpc = grpc_listeners.read(reading, listening)
    store = _store(reading)
    state = _state_dir(reading)
    terms = fetching.read(reading)
    return Settings(
        config=reading.config,
        profile=profile,
        mode=_mode(reading, profile),
        inference=listening["inference"],
        management=listening["management"],
        metrics=listening.get("metrics"),
        grpc_inference=grpc.get("grpc_inference"),
        grpc_management=grpc.get("grpc_management"),
        grpc_ages=grpc_listeners.read_ages(reading),
        keys_required=not reading.value("disable_token_authorization", default=False),
        token_lifetime=60.0 * reading.value("token_expiration_min", 60.0),
        model_store=store,
        load=reading.read("load_models", partial(_load_items, terms=terms), cast("tuple[LoadItem, ...] | None", ())),
        manifest=reading.path("guard.manifest", store / "tsguard-manifest.json"),
        manifest_named="guard.manifest" in reading.given,
        state_dir=state,
        runtime_dir=_runtime_dir(reading),
        audit_log=reading.path("guard.audit_log", state / "audit.jsonl"),
        key_file=reading.around.cwd / "key_file.json",
        admin=_admin(reading),
        frontend_log=_frontend_log(reading),
        log_location=_location(reading, "LOG_LOCATION"),
        metrics_location=_location(reading, "METRICS_LOCATION"),
        fail_on=Severity[reading.value("guard.fail_on", FAIL_ON[profile]).upper()],
        scanners=reading.read("guard.scanners", _comma_separated, cast("tuple[str, ...] | None", None)),
        jvm_arguments=reading.read("vmargs", jvm.parse, cast("tuple[str, ...]", ())),
        workers=reading.read("guard.workers", _workers, cast("int | None", 1)),
        private_copies=reading.read("guard.private_copies", _archives, cast("tuple[str, ...]", ())),
        stream_models=reading.read("guard.stream_models", named_models.parse, cast("frozenset[str] | None", None)),
        unary_models=reading.read("guard.unary_models", named_models.parse, cast("frozenset[str] | None", None)),
        kserve_models=reading.read("guard.kserve_models", named_models.parse, cast("frozenset[str] | None", None)),
        pass_environment=reading.read("guard.pass_environment", _variables, cast("tuple[str, ...]", ())),
        passthrough=_passthrough(reading),
        limits=_limits(reading),
        archive_limits=_archive_limits(reading),
        access_log=_access_log(reading, state),
        tls=_tls(reading, listening),
        trusted_keys=trusted.read_keys(reading),
        trusted_identities=trusted.read_identities(reading),
        sigstore_root=trusted.read_root(reading),
        signature_threshold=trusted.read_threshold(reading)[0],
        signature_roles=trusted.read_threshold(reading)[1],
        terms=terms,
    )


def _mode(reading: Reading, profile: Profile) -> Mode:
    """Return the mode; in the profile `compat` it follows `enable_model_api` when it is not given."""
    follows = profile is Profile.COMPAT and reading.value("enable_model_api", default=False)
    return Mode(reading.value("model-control-mode", "explicit" if follows else "none"))


def _refuse_no_text(reading: Reading) -> None:
    """Complain about values that no path, host or line of the configuration for TorchServe can hold."""
    for name, given in reading.given.items():
        if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in given.text):
            reading.complain(name, "holds a NUL or half of a surrogate pair, which is no text; remove it")


def _readable(path: Path) -> bool:
    """Whether this user may read a file, or list and enter a folder."""
    return os.access(path, os.R_OK | (os.X_OK if looks.is_folder(path) else 0), effective_ids=True)


def _passthrough(reading: Reading) -> dict[str, str]:
    """Return the keys that TorchServe gets as they are; every value given is read, so that all complaints are told."""
    for name in reading.given:
        reading.value(name, None)
    metrics = reading.given.get("metrics_config")
    if metrics is not None and not looks.is_file(reading.around.cwd / metrics.text):
        reading.complain("metrics_config", "is not a file; TorchServe would start, and no worker would")
    elif metrics is not None and not _readable(reading.around.cwd / metrics.text):
        reading.complain("metrics_config", "may not be read by this user; TorchServe would start, and no worker would")
    return {name: _absolute(reading, name) for name in reading.given if KEYS[name].fate is Fate.PASS}


def _absolute(reading: Reading, name: str) -> str:
    """Return the value as TorchServe is to read it, whose working directory is another."""
    text = reading.given[name].text
    return str(reading.around.cwd / text) if KEYS[name].kind in {Kind.PATH, Kind.FILE} else text


def _tls(reading: Reading, listening: Mapping[str, Address]) -> certificates.Tls | None:
    """Return what listeners with TLS show, None when there are none."""
    asking = [f"{name}_address" for name, listener in listening.items() if listener.scheme == "https"]
    asking += ["enable_grpc_ssl"] if reading.value("enable_grpc_ssl", default=False) else []
    if not asking:
        if "guard.client_ca" in reading.given:
            reading.complain("guard.client_ca", "asks for client certificates, and no listener is `https://`")
        return None
    if reading.value("keystore_type", "PKCS12").upper() not in keystore.KINDS:
        reading.complain("keystore_type", "is neither PKCS12 nor JKS; convert the store with `keytool -importkeystore`")
    sources = _sources(reading)
    if sources.missing is not None:
        reading.complain(asking[0], certificates.missing(sources.missing))
        return None
    try:
        return certificates.read(sources)
    except certificates.Unusable as error:
        reading.complaints.append(f"{reading.given[error.key].where}: {error}")
        return None


def _sources(reading: Reading) -> certificates.Sources:
    def path(name: str) -> Path | None:
        return reading.path(name, Path()) if name in reading.given else None

    return certificates.Sources(
        certificate=path("certificate_file"),
        key=path("private_key_file"),
        keystore=path("keystore"),
        password=reading.value("keystore_pass", "changeit"),
        client_ca=path("guard.client_ca"),
    )


def _store(reading: Reading) -> Path:
    given = reading.given.get("model_store")
    store = reading.around.cwd / (given.text if given is not None else "")
    if given is None:
        reading.complain("model_store", "is missing; name the folder of the archives there, or with --model-store")
    elif not looks.is_folder(store):
        reading.complain("model_store", "is not a folder; name the folder of the archives")
    elif not _readable(store):
        reading.complain("model_store", "may not be read by this user; give it the rights to list and enter the folder")
    return store


def _state_dir(reading: Reading) -> Path:
    environment = reading.around.environment
    given = environment.get("STATE_DIRECTORY", "").split(":")[0]
    home = environment.get("XDG_STATE_HOME") or str(reading.around.home / ".local/state")
    return reading.path("guard.state_dir", Path(given) if given else Path(home) / "tsguard")


def _runtime_dir(reading: Reading) -> Path | None:
    given = reading.around.environment.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if given or "guard.runtime_dir" in reading.given:
        folder = reading.path("guard.runtime_dir", Path(given))
        if looks.is_there(folder) and not looks.is_folder(folder):
            reading.complain("guard.runtime_dir", "is not a folder; name one of this user, or a new one")
        return folder
    return None


def _location(reading: Reading, variable: str) -> Path:
    return reading.around.cwd / (reading.around.environment.get(variable) or "logs")


def _admin(reading: Reading) -> Address | None:
    admin = reading.value("guard.admin_address", cast("Address | None", None))
    if admin is not None and admin.path is None:
        reading.complain("guard.admin_address", "is not `unix:/path`, and nothing else is served by this version")
    return admin


def _refuse_direct(reading: Reading) -> None:
    if reading.value("guard.inference", "proxy") == "direct":
        reading.complain("guard.inference", "is not known to this version; use `proxy`, which is the default")


def _frontend_log(reading: Reading) -> str:
    named = reading.read("vmargs", jvm.log_configuration, None)
    if named is not None and "guard.frontend_log" not in reading.given:
        return reading.read("vmargs", lambda _: _log(reading, named), "lean")
    return reading.read("guard.frontend_log", lambda text: _log(reading, text), "lean")


def _log(reading: Reading, text: str) -> str:
    path = reading.around.cwd / text
    if text in {"lean", "stock"}:
        return text
    if not looks.is_file(path):
        raise ValueError("is neither `lean` nor `stock`, and names no log4j2 file that is there")
    if not _readable(path):
        raise ValueError("names a file that this user may not read")
    return str(path)


def _comma_separated(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _variables(text: str) -> tuple[str, ...]:
    names = _comma_separated(text)
    for name in names:
        if VARIABLE_NAME.fullmatch(name) is None:
            raise ValueError(f"holds `{name}`, which is not the name of a variable; write names with commas between")
    return names


def _workers(text: str) -> int | None:
    if text.lower() == "auto":
        return None
    if WORKERS.fullmatch(text) is None or not 1 <= int(text) <= MOST_WORKERS:
        raise ValueError(f"is neither `auto` nor a number of processes from 1 to {MOST_WORKERS}")
    return int(text)


def _archives(text: str) -> tuple[str, ...]:
    names = _comma_separated(text)
    for name in names:
        if name != "*" and NAME.fullmatch(name) is None:
            raise ValueError(
                f"holds `{name}`, which is not the bare name of an archive in the model store; name archives as "
                "`load_models` does, with commas between, or write `*` for all"
            )
    return names


def _limits(reading: Reading) -> Limits:
    default = Limits()
    connections = reading.value("guard.max_connections", default.max_connections)
    return Limits(
        max_request_size=reading.value(
            "guard.max_request_size", reading.value("max_request_size", default.max_request_size)
        ),
        max_connections=connections,
        max_connections_per_address=reading.value("guard.max_connections_per_address", -(-connections * 3 // 4)),
        head_timeout=reading.value("guard.head_timeout", default.head_timeout),
        idle_timeout=reading.value("guard.idle_timeout", default.idle_timeout),
        stall_timeout=reading.value("guard.stall_timeout", default.stall_timeout),
        min_rate=reading.value("guard.min_rate", default.min_rate),
        model_concurrency=reading.value("guard.model_concurrency", default.model_concurrency),
        model_queue=reading.value("guard.model_queue", default.model_queue),
        queue_timeout=reading.value("guard.queue_timeout", default.queue_timeout),
        drain_timeout=reading.value("guard.drain_timeout", default.drain_timeout),
        start_timeout=reading.value("guard.start_timeout", default.start_timeout),
        verify_interval=reading.value("guard.verify_interval", default.verify_interval),
    )


def _archive_limits(reading: Reading) -> ArchiveLimits:
    default = ArchiveLimits()
    return ArchiveLimits(
        members=reading.value("guard.archive_max_members", default.members),
        unpacked=reading.value("guard.archive_max_unpacked", default.unpacked),
        ratio=reading.value("guard.archive_max_ratio", default.ratio),
    )


def _access_log(reading: Reading, state: Path) -> AccessFile | None:
    if reading.value("guard.access_log", "") == NO_ACCESS_LOG:
        return None
    path = reading.path("guard.access_log", state / "access.log")
    if path == reading.path("guard.audit_log", state / "audit.jsonl"):
        reading.complain("guard.access_log", "is the audit log too; name another file")
    default = AccessFile(path)
    return AccessFile(
        path,
        reading.value("guard.access_log_format", default.form),
        reading.value("guard.access_log_size", default.size),
        reading.value("guard.access_log_files", default.count),
    )


def _load_items(text: str, terms: Terms) -> tuple[LoadItem, ...] | None:
    """Return what `load_models` names, None for `ALL`. Blanks around commas do not count (hazard S10)."""
    if text.strip().lower() == "all":
        return None
    return tuple(_load_item(part, terms) for part in _comma_separated(text))


def _load_item(text: str, terms: Terms) -> LoadItem:
    """Return what one part of `load_models` names, `[NAME=]ARCHIVE`: taken apart at the first `=`, as in TorchServe."""
    model, separator, archive = text.partition("=")
    if not separator or origin.looks_like_one(model):  # a `=` may stand in the query of an address
        model, separator, archive = "", "", text
    if separator and NAME.fullmatch(model) is None:
        raise ValueError(f"holds the model name `{model}`; use letters, digits, `_`, `.` and `-`")
    return archive_of(archive, terms, model if separator else None)


def archive_of(text: str, terms: Terms | None = None, model: str | None = None) -> LoadItem:
    """Return the archive that a bare name or an address stands for, which the terms, if any, must allow.

    Raises `ValueError`.
    """
    if NAME.fullmatch(text) is not None:
        return LoadItem(text, model)
    if not origin.looks_like_one(text):
        raise ValueError(
            f"holds `{text}`, which is not the bare name of an archive in the model store; "
            "put the archive there and name it without a folder, or name the address that it is fetched from"
        )
    try:
        found = origin.parse(text)
        if terms is not None:
            terms.verify_allowed(found)
    except ValueError as error:
        raise ValueError(f"holds `{origin.redacted(text)}`, which {error}") from None
    return LoadItem(found.name, model, found)

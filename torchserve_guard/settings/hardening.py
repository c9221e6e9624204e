"""Hardening: settings that are acceptable and yet unwise, each with its rule.

`docs/checks.md` has a section for each rule.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from torchserve_guard.access import Mode
from torchserve_guard.findings import Finding, Location, Severity
from torchserve_guard.settings.settings import Settings

LineOf = Callable[[str], int | None]
CODE_VARIABLES = (
    "LD_PRELOAD",
    "LD_AUDIT",
    "JAVA_TOOL_OPTIONS",
    "_JAVA_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "PYTHONPATH",
    "PYTHONSTARTUP",
)
REDIRECTING = ("TS_CONFIG_FILE", "TS_MODEL_SERVER_HOME", "LOG4J_CONFIGURATION_FILE")


def check(settings: Settings, environment: Mapping[str, str], line_of: LineOf) -> tuple[Finding, ...]:
    """Return the findings of every rule, in the order of the table."""
    return tuple(finding for rule in RULES for finding in rule(settings, environment, line_of))


def _at(settings: Settings, line_of: LineOf, key: str) -> Location:
    return Location(str(settings.config), line_of(key))


def _management_reachable(settings: Settings, _environment: Mapping[str, str], line_of: LineOf) -> Iterator[Finding]:
    if not settings.management.local:
        severity = Severity.HIGH if settings.mode is Mode.EXPLICIT else Severity.MEDIUM
        yield Finding(
            "TSG001",
            severity,
            f"the management listener `{settings.management}` can be reached from other hosts, in clear text",
            "use `management_address=http://127.0.0.1:8081` or `unix:/path`, with a TLS proxy in front for other hosts",
            _at(settings, line_of, "management_address"),
            key="management_address",
        )


def _inference_open(settings: Settings, _environment: Mapping[str, str], line_of: LineOf) -> Iterator[Finding]:
    if not settings.inference.local and not settings.keys_required:
        yield Finding(
            "TSG002",
            Severity.MEDIUM,
            f"anyone who reaches `{settings.inference}` may use every model: token authorization is off",
            "remove `disable_token_authorization`, or listen on a loopback address",
            _at(settings, line_of, "disable_token_authorization"),
            key="disable_token_authorization",
        )


def _keys_in_clear(settings: Settings, _environment: Mapping[str, str], line_of: LineOf) -> Iterator[Finding]:
    if not settings.inference.local and settings.keys_required:
        yield Finding(
            "TSG003",
            Severity.MEDIUM,
            f"keys and data travel in clear text to `{settings.inference}`",
            "listen on a loopback address, with a TLS proxy in front for other hosts",
            _at(settings, line_of, "inference_address"),
            key="inference_address",
        )


def _model_api_without_mode(settings: Settings, _environment: Mapping[str, str], line_of: LineOf) -> Iterator[Finding]:
    if settings.mode is Mode.NONE and line_of("enable_model_api") is not None:
        yield Finding(
            "TSG004",
            Severity.LOW,
            "`enable_model_api` has no effect: model-control-mode is none, so nothing is changed at run time",
            "set `model-control-mode=explicit` if models are to be managed at run time, or remove `enable_model_api`",
            _at(settings, line_of, "enable_model_api"),
            key="enable_model_api",
        )


def _ignored(settings: Settings, _environment: Mapping[str, str], line_of: LineOf) -> Iterator[Finding]:
    for key, why in (
        ("allowed_urls", "TorchServe downloads nothing under the guard"),
        ("workflow_store", "workflows are refused by this version"),
        ("enable_grpc_ssl", "the gRPC listeners stay closed in this version"),
    ):
        if line_of(key) is not None:
            yield Finding(
                "TSG005",
                Severity.LOW,
                f"`{key}` has no effect: {why}",
                "remove it",
                _at(settings, line_of, key),
                key=key,
            )


def _environment_runs_code(settings: Settings, environment: Mapping[str, str], _line_of: LineOf) -> Iterator[Finding]:
    for name in (*CODE_VARIABLES, *REDIRECTING):
        if environment.get(name):
            yield Finding(
                "TSG006",
                Severity.LOW,
                f"the environment variable {name} is set; stock TorchServe obeys it, the guarded one does not get it",
                f"unset {name}",
                Location(str(settings.config)),
                key=name,
            )


def _writable_by_others(settings: Settings, _environment: Mapping[str, str], _line_of: LineOf) -> Iterator[Finding]:
    for path, what, severity in (
        (settings.config, "the configuration", Severity.HIGH),
        (settings.manifest, "the manifest", Severity.HIGH),
        (settings.state_dir, "the state directory", Severity.CRITICAL),
        (settings.runtime_dir, "the runtime directory", Severity.CRITICAL),
        (_file_of(settings.frontend_log), "the log configuration of TorchServe", Severity.CRITICAL),
        (_file_of(settings.passthrough.get("metrics_config")), "the metrics configuration", Severity.HIGH),
    ):
        told = _who_else_writes(path) if path is not None else None
        if told is not None:
            place, who = told
            yield Finding(
                "TSG007",
                severity,
                f"{what} {path} can be changed by {who}" + (f", through {place}" if place != path else ""),
                f"chmod go-w {place}, and make it belong to root or to the user that runs the guard",
                Location(str(path)),
            )


def _file_of(choice: str | None) -> Path | None:
    return Path(choice) if choice is not None and choice.startswith("/") else None


def _who_else_writes(path: Path) -> tuple[Path, str] | None:
    """Return who but root and this user may change or replace `path`, and through which folder; None when nobody."""
    for place in (path, *path.absolute().resolve().parents):
        who = _writer(place)
        if who is not None:
            return place, who
    return None


def _writer(place: Path) -> str | None:
    try:
        status = place.stat()
    except OSError:
        return None
    if status.st_uid not in {0, os.geteuid()}:
        return f"user {status.st_uid}"
    # In a sticky folder (/tmp) others may add names, and neither replace nor remove ours.
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
        return None
    if status.st_mode & stat.S_IWOTH:
        return "every user of this machine"
    if status.st_mode & stat.S_IWGRP and status.st_gid not in {0, os.getegid()}:
        return f"group {status.st_gid}"
    return None


RULES = (
    _management_reachable,
    _inference_open,
    _keys_in_clear,
    _model_api_without_mode,
    _ignored,
    _environment_runs_code,
    _writable_by_others,
)

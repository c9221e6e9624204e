"""The words: what is said of keys whose value the guard has in place of the user's, or knows only when it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torchserve_guard.settings import Settings

# What the TorchServe behind the guard is told where that is known only when it runs.
AT_RUN_TIME: Mapping[str, str] = {
    "inference_address": "a unix socket in the private run directory",
    "management_address": "a unix socket in the private run directory",
    "metrics_address": "a unix socket in the private run directory",
    "model_store": "a folder of the verified and unpacked archives, read-only",
    "workflow_store": "an empty folder in the private run directory",
    "load_models": "the archives that were verified, by name",
}
# Pinned keys whose value counts for nothing: the guard alone says what they are.
NO_EFFECT: Mapping[str, str] = {
    "enable_model_api": "`model-control-mode` decides",
    "use_env_allowed_urls": "TorchServe downloads nothing under the guard, which goes by `allowed_urls` alone",
    "workflow_store": "workflows are not served under the guard",
    "use_native_io": "TorchServe listens on unix sockets under the guard",
}
# Pinned keys that count for the guard, and for something else when nobody gives them: the value, and why.
OTHER_DEFAULT: Mapping[str, tuple[str, str]] = {
    "allowed_urls": ("(?!)", "the guard fetches archives from nowhere unless their addresses are allowed"),
}
# Refused keys in whose place the guard has something of its own.
IN_PLACE: Mapping[str, str] = {
    "python": "the interpreter of the guard",
    "model_server_home": "TorchServe as it is installed beside the guard",
    "tsConfigFile": "the configuration that the guard writes",
}
# The guard's own keys whose value follows from others when nobody gives it.
FOLLOWING: Mapping[str, Callable[[Settings], object]] = {
    "model-control-mode": lambda settings: settings.mode.value,
    "guard.manifest": lambda settings: settings.manifest,
    "guard.state_dir": lambda settings: settings.state_dir,
    "guard.runtime_dir": lambda settings: settings.runtime_dir or "a private temporary folder",
    "guard.audit_log": lambda settings: settings.audit_log,
    "guard.access_log": lambda settings: settings.access_log.path if settings.access_log is not None else "off",
    "guard.max_connections_per_address": lambda settings: settings.limits.max_connections_per_address,
    "guard.fail_on": lambda settings: settings.fail_on,
    "guard.max_request_size": lambda settings: settings.limits.max_request_size,
    "guard.admin_address": lambda settings: settings.admin or "a unix socket in the run directory",
}

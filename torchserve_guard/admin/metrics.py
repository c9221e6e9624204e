"""The metrics: what a status says in numbers, in the text format of Prometheus (version 0.0.4). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torchserve_guard.admin.status import ManifestStatus, State, Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Row = tuple[Mapping[str, str], float]


def render(status: Status) -> str:
    """Return the metrics of a guard."""
    seen = status.verification
    families: tuple[tuple[str, str, str, Iterable[Row]], ...] = (
        ("tsguard_serving", "gauge", "Whether the door is open.", [({}, status.state is State.SERVING)]),
        ("tsguard_model_open", "gauge", "Whether requests reach a model; 0 when it was closed.", _models(status)),
        ("tsguard_manifest_version", "gauge", "Version of the manifest that counts.", _version(status.manifest)),
        (
            "tsguard_manifest_expires_timestamp_seconds",
            "gauge",
            "When that manifest expires; from then on no start and no registration succeeds.",
            _expiry(status.manifest),
        ),
        ("tsguard_processes", "gauge", "Processes at the door that serve.", _processes(status)),
        ("tsguard_process_restarts_total", "counter", "Such processes that were replaced.", _restarts(status)),
        ("tsguard_verification_rounds_total", "counter", "Looks at all that is served.", _one(seen, "rounds")),
        ("tsguard_verification_blind_total", "counter", "Rounds that could not look at a model.", _one(seen, "blind")),
        ("tsguard_drifts_total", "counter", "Models and links found changed.", _one(seen, "drifts")),
        (
            "tsguard_verification_processor_seconds_total",
            "counter",
            "Processor time that the rounds took.",
            _one(seen, "processor_seconds"),
        ),
        ("tsguard_verification_last_timestamp_seconds", "gauge", "When the last round ended.", _one(seen, "last")),
        ("tsguard_verification_last_seconds", "gauge", "How long the last round took.", _one(seen, "last_seconds")),
    )
    return "".join(_family(*family) for family in families)


def _one(numbers: Mapping[str, float], name: str) -> list[Row]:
    return [({}, numbers[name])] if name in numbers else []


def _models(status: Status) -> list[Row]:
    return [
        ({"model": one["model"], "version": one["version"]}, one.get("door", "open") == "open") for one in status.models
    ]


def _version(manifest: ManifestStatus | None) -> list[Row]:
    return [({}, manifest.version)] if manifest is not None else []


def _expiry(manifest: ManifestStatus | None) -> list[Row]:
    expires = manifest.expires if manifest is not None else None
    return [({}, expires.timestamp())] if expires is not None else []


def _processes(status: Status) -> list[Row]:
    serving = [one for one in status.processes if one["state"] == "serving"]
    return [({}, len(serving))] if status.processes else []


def _restarts(status: Status) -> list[Row]:
    return [({}, sum(float(one["restarts"]) for one in status.processes))] if status.processes else []


def _family(name: str, kind: str, meaning: str, rows: Iterable[Row]) -> str:
    lines = [f"{name}{_labels(labels)} {float(value):.17g}\n" for labels, value in rows]
    return "".join([f"# HELP {name} {meaning}\n# TYPE {name} {kind}\n", *lines]) if lines else ""


def _labels(labels: Mapping[str, str]) -> str:
    told = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{told}}}" if told else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

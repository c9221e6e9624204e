"""The model's configuration: what TorchServe and its workers make of the archive's `model-config.yaml`.

TorchServe (archive/model/ModelConfig.java) logs what it cannot use and goes on with its defaults, and does what
the rest says, whoever wrote it: it makes environments, runs launchers, starts any number of processes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from torchserve_guard.archives import mar, texts
from torchserve_guard.archives.document import Malformed
from torchserve_guard.archives.store import Staged
from torchserve_guard.findings import Finding, Location, Severity

MOST_WORKERS: Final = 256
"""Workers that one archive may ask for; each is a process that loads the model."""

LONGEST_WORD: Final = 100
LONGEST_REASON: Final = 300
"""Characters of what an archive says that are quoted in a message."""

LAUNCHED: Final = frozenset({"pp", "tp", "pptp"})
"""The parallel types that TorchServe runs under `torchrun` (WorkerLifeCycle.startWorkerPython)."""

_INT_MAX = (1 << 31) - 1


def _one_of(*words: str) -> AfterValidator:
    def verify(value: str) -> str:
        if value.lower() not in words:
            raise ValueError(f"should be {' or '.join(f'`{word}`' for word in words if word)}")
        return value

    return AfterValidator(verify)


NotNegative = Annotated[StrictInt, Field(ge=0, le=_INT_MAX)]
Positive = Annotated[StrictInt, Field(ge=1, le=_INT_MAX)]


class TorchRun(BaseModel):
    """The section `torchrun`, with TorchServe's defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    nnodes: Positive = 1
    nproc_per_node: Annotated[Positive, Field(alias="nproc-per-node")] = 1
    rdzv_backend: Annotated[StrictStr, Field(alias="rdzv-backend")] = "c10d"
    rdzv_endpoint: Annotated[StrictStr | None, Field(alias="rdzv-endpoint")] = None
    rdzv_conf: Annotated[StrictStr | None, Field(alias="rdzv-conf")] = None
    monitor_interval: Annotated[Positive, Field(alias="monitor-interval")] = 5
    node_rank: Annotated[NotNegative, Field(alias="node-rank")] = 0
    omp_number_threads: Annotated[Positive, Field(alias="OMP_NUMBER_THREADS")] = 1


class ModelConfig(BaseModel):
    """The keys that TorchServe's frontend reads, in the document's own spelling; all others are the handler's."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    minWorkers: Positive = 1  # noqa: N815
    maxWorkers: NotNegative = 1  # noqa: N815
    batchSize: Positive = 1  # noqa: N815
    maxBatchDelay: NotNegative = 100  # noqa: N815
    responseTimeout: Positive = 120  # noqa: N815
    startupTimeout: Positive = 120  # noqa: N815
    deviceType: Annotated[StrictStr, _one_of("cpu", "gpu", "")] = ""  # noqa: N815
    deviceIds: tuple[NotNegative, ...] = ()  # noqa: N815
    parallelType: Annotated[StrictStr, _one_of("pp", "tp", "pptp", "custom", "")] = ""  # noqa: N815
    parallelLevel: NotNegative = 0  # noqa: N815
    torchrun: TorchRun = TorchRun()
    maxRetryTimeoutInSec: NotNegative = 300  # noqa: N815
    clientTimeoutInMills: NotNegative = 0  # noqa: N815
    jobQueueSize: NotNegative = 0  # noqa: N815
    useJobTicket: StrictBool = False  # noqa: N815
    sequenceMaxIdleMSec: NotNegative = 0  # noqa: N815
    sequenceTimeoutMSec: NotNegative = 0  # noqa: N815
    maxSequenceJobQueueSize: Positive = 1  # noqa: N815
    maxNumSequence: Positive = 1  # noqa: N815
    continuousBatching: StrictBool = False  # noqa: N815
    sequenceBatching: StrictBool = False  # noqa: N815
    asyncCommunication: StrictBool = False  # noqa: N815
    useVenv: StrictBool = False  # noqa: N815


KEYS: Final = frozenset(ModelConfig.model_fields)

_LOWERED = {key.lower(): key for key in KEYS}


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that is looked for."""

    rule: str
    severity: Severity
    remedy: str


UNREADABLE = Rule("TSG100", Severity.HIGH, "correct the file, and build the archive again")
UNUSABLE = Rule("TSG101", Severity.MEDIUM, "give it a value that TorchServe takes, or leave it out")
VENV = Rule("TSG102", Severity.HIGH, "leave `useVenv` out, and install what the model needs beside TorchServe")
LAUNCHER = Rule(
    "TSG103",
    Severity.HIGH,
    "serve the model in one process, or keep the ports of torchrun from others and waive this for this archive",
)
CROWD = Rule("TSG104", Severity.HIGH, f"ask for at most {MOST_WORKERS} workers, and scale the model once it serves")
MISSPELT = Rule(
    "TSG105", Severity.LOW, "write the key as TorchServe does; what is the handler's belongs below `handler:`"
)
_WEIGHTS_ALONE = "save the weights alone (`state_dict()`, or safetensors), and leave the form out of `accepts`"
PICKLED = Rule("TSG139", Severity.HIGH, _WEIGHTS_ALONE)
SCRIPTED = Rule("TSG139", Severity.MEDIUM, _WEIGHTS_ALONE)

RUN: Final = {
    "pickle": (PICKLED, "a handler that goes by it unpickles what is no weights, which runs whatever is in it"),
    "torchscript": (SCRIPTED, "a handler that goes by it loads a program, and not weights alone"),
}
"""The forms that are more than weights, as `handlers/verified.py` calls them, and what is said of each."""

Told = tuple[Rule, str | None, str]
"""A rule, the key that it is about, and the message."""


def check(staged: Staged) -> list[Finding]:
    """Return what is to be said of the configuration in a staged archive: nothing when there is none."""
    member = mar.about(texts.read(staged, mar.MANIFEST), staged.name).config_file
    if member is None:
        return []
    from torchserve_guard.archives import yaml_document  # noqa: PLC0415 - heavy, and few archives have one

    data = texts.read(staged, member, yaml_document.LARGEST + 1)
    return findings(data, member, staged.name, staged.digest)


def findings(data: bytes, member: str, subject: str, digest: str) -> list[Finding]:
    """Return what is to be said of this member of a subject, in the order of its lines."""
    from torchserve_guard.archives import yaml_document  # noqa: PLC0415

    try:
        document = yaml_document.parse(data)
    except Malformed as error:
        return [
            _finding(
                (UNREADABLE, None, f"`{member}` {str(error)[:LONGEST_REASON]}"),
                Location(subject, member=member),
                digest,
            )
        ]
    found = [(document.lines.get(told[1] or ""), told) for told in judge(document.value)]
    return [
        _finding(told, Location(subject, line, member), digest)
        for line, told in sorted(found, key=lambda row: (row[0] or 0, row[1][0].rule))
    ]


def stated(data: bytes) -> Mapping[str, Any] | None:
    """Return all keys with their values, or None when the file cannot be read."""
    from torchserve_guard.archives import yaml_document  # noqa: PLC0415

    try:
        return yaml_document.parse(data).value
    except Malformed:
        return None


def accepted(value: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the forms that the handler is told to load (`handler: {accepts: [...]}`), or None if it is told none."""
    handler = value.get("handler")
    told = handler.get("accepts") if isinstance(handler, Mapping) else None
    if told is None:
        return None
    # Of a mapping a handler takes the keys, as of any collection (`frozenset(told)`).
    return tuple(str(one) for one in told) if isinstance(told, list | Mapping) else (str(told),)


def judge(value: Mapping[str, Any]) -> Iterator[Told]:
    """Yield what is to be said of a configuration."""
    yield from _unusable(value)
    if value.get("useVenv") is True:
        yield VENV, "useVenv", "`useVenv` makes a virtual environment at the start and runs the Python in it"
    if _launched(value):
        what = f"`parallelType` is `{value['parallelType']}`"
        yield LAUNCHER, "parallelType", f"{what}: `torchrun` starts the workers, and opens ports for them to meet at"
    for key in ("minWorkers", "maxWorkers"):
        if _number(value, key) > MOST_WORKERS:
            yield CROWD, key, f"`{key}` is {value[key]}: that many processes may start, each with the model in memory"
    asked = {form.lower() for form in accepted(value) or ()}
    for form, (rule, why) in RUN.items():
        if form in asked:
            yield rule, "handler", f"`handler.accepts` has `{form}`: {why}"
    for key in value.keys() - KEYS:
        meant = _LOWERED.get(key.lower()) or next(iter(difflib.get_close_matches(key[:64], KEYS, 1, 0.85)), None)
        if meant is not None:
            yield MISSPELT, key, f"`{key}` is not a key of TorchServe's, `{meant}` is: it has no effect on TorchServe"


def _launched(value: Mapping[str, Any]) -> bool:
    """Whether TorchServe would run `torchrun`; the section alone gives the level that is needed for it."""
    kind = value.get("parallelType")
    leveled = isinstance(value.get("torchrun"), dict) or _number(value, "parallelLevel") > 0
    return isinstance(kind, str) and kind.lower() in LAUNCHED and leveled


def _number(value: Mapping[str, Any], key: str) -> int:
    """Return a number that Java takes for an `Integer`, or 0: TorchServe takes no others."""
    number = value.get(key)
    whole = isinstance(number, int) and not isinstance(number, bool)
    return number if whole and number is not None and abs(number) <= _INT_MAX else 0


def _unusable(value: Mapping[str, Any]) -> Iterator[Told]:
    try:
        # As JSON would be taken: a list is a tuple, but no word is a number.
        ModelConfig.model_validate({key: value[key] for key in value.keys() & KEYS})
    except ValidationError as error:
        rows = error.errors(include_url=False, include_context=False, include_input=False)
        for key in dict.fromkeys(str(row["loc"][0]) for row in rows):
            whys = [_why(row["loc"], row["msg"]) for row in rows if row["loc"][0] == key]
            more = f", and {len(whys) - 1} more" if len(whys) > 1 else ""
            yield UNUSABLE, key, f"{whys[0]}{more}; TorchServe logs that and takes another value"


def _why(location: tuple[int | str, ...], message: str) -> str:
    place = ".".join(str(part) for part in location)
    return f"`{place[:LONGEST_WORD]}`: {message.removeprefix('Value error, ')}"


def _finding(told: Told, location: Location, digest: str) -> Finding:
    rule, _, message = told
    # No key: a waiver is to be bound to the subject, and not to a word that other archives hold too.
    return Finding(rule.rule, rule.severity, message, rule.remedy, location, digest)

"""The program: start, stop, version, with stock's words and exit codes."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from torchserve_guard.cli import lines
from torchserve_guard.errors import ConfigError, GuardError
from torchserve_guard.shim.background import detached
from torchserve_guard.shim.commandline import CommandLine, Verb, parse
from torchserve_guard.shim.place import AlreadyRunning, Claim, Place, ended
from torchserve_guard.shim.resolution import Options, Refused, Resolved, resolve

REFUSED = 1
INTERRUPTED = 130
PATIENCE = 60.0
HURRIED = 60.0
NOT_BAKED = "-"
EMPTY = "# Defaults and flags: no configuration was named, and there is none in the working directory.\n"

STARTED = "Model server started."
RUNNING = "TorchServe is already running, please use torchserve --stop to stop TorchServe."
NOT_RUNNING = "TorchServe is not currently running."
STOPPED = "TorchServe has stopped."
TOO_LONG = "Stopping TorchServe took too long."
ORPHAN = "Removing orphan pid file."


def main() -> None:
    """Run what follows the two baked options on the command line, and exit."""
    profile, mode, *arguments = sys.argv[1:]
    options = Options(_option(profile, "TSGUARD_PROFILE"), _option(mode, "TSGUARD_MODEL_CONTROL_MODE"))
    line = parse(arguments)
    sys.exit(_told(lambda: _done(line, options)))


def _option(baked: str, variable: str) -> str | None:
    # INVARIANT: what is baked in stands: whoever sets the environment cannot make a strict shim a lenient one.
    return baked if baked != NOT_BAKED else os.environ.get(variable) or None


def _done(line: CommandLine, options: Options) -> int:
    match line.verb:
        case Verb.VERSION:
            return _version()
        case Verb.STOP:
            return _stop(line, Place(Path(tempfile.gettempdir())))
        case Verb.START:
            return _start(line, options, Place(Path(tempfile.gettempdir())))


def _told(work: Callable[[], int]) -> int:
    """Return the exit code of the work; of an error, once it was said."""
    try:
        return work()
    except Refused as refused:
        _tell(str(refused))
        return REFUSED
    except GuardError as error:
        for text in lines.of_error(error):
            _write(text)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        _say(f"failed: {error}")
        return REFUSED


def _version() -> int:
    from torchserve_guard.frontend import find_torchserve, installed  # noqa: PLC0415 - heavy, and only needed here

    _tell(f"TorchServe Version is {find_torchserve(installed()).version}")
    return 0


def _stop(line: CommandLine, place: Place) -> int:
    process = place.running()
    if process is None:
        if place.forget():
            _tell(ORPHAN)
        _tell(NOT_RUNNING)
        return 0
    if not ended(process, PATIENCE, HURRIED):
        _tell(TOO_LONG)
        return REFUSED
    if not line.foreground:
        _tell(STOPPED)
    return 0


def _start(line: CommandLine, options: Options, place: Place) -> int:
    try:
        with place.taken() as claim:
            if claim.orphaned:
                _tell(ORPHAN)
                claim.clear()
            return _started(line, options, place, claim)
    except AlreadyRunning:
        _tell(RUNNING)
        return REFUSED


def _started(line: CommandLine, options: Options, place: Place, claim: Claim) -> int:
    resolved = resolve(line, options, os.environ, _cwd())
    serve = _serving(resolved, place, claim)
    if line.foreground:
        return serve(_started_said)
    code = detached(lambda opened: _told(lambda: serve(opened)))
    if code is None:
        _started_said()
        return 0
    return code


def _serving(resolved: Resolved, place: Place, claim: Claim) -> Callable[[Callable[[], None]], int]:
    """Return what serves, and is given what to call when the door is open. Raises `ConfigError`."""
    from torchserve_guard import run  # noqa: PLC0415 - heavy: `--stop` and `--version` do without
    from torchserve_guard.cli.progress import Progress  # noqa: PLC0415
    from torchserve_guard.settings import Surroundings, load  # noqa: PLC0415

    for note in resolved.notes:
        _say(note)
    config = resolved.config or _empty(place)
    settings = load(config, resolved.flags, Surroundings(dict(os.environ), _cwd(), Path.home()))

    def serve(opened: Callable[[], None]) -> int:
        claim.write()
        try:
            with Progress(sys.stderr) as progress:
                return run.start(settings, say=_say, progress=progress, opened=opened)
        finally:
            claim.clear()

    return serve


def _empty(place: Place) -> Path:
    """Return a configuration that says nothing, in the shim's own folder: one guard for each."""
    path = place.folder / "config.properties"
    path.unlink(missing_ok=True)
    path.write_text(EMPTY)
    return path


def _cwd() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise ConfigError(
            f"the working directory is gone or may not be read ({error.strerror}); start in another"
        ) from error


def _started_said() -> None:
    _tell(STARTED)


def _tell(text: str) -> None:
    """Write what stock would have written to standard output, whether or not anybody still reads it."""
    with suppress(OSError):
        os.write(1, text.encode("utf-8", "backslashreplace") + b"\n")


def _say(text: str) -> None:
    _write(lines.PREFIX + lines.indented(text))


def _write(text: str) -> None:
    # The command that started a guard in the background may have ended, and whoever read it too: serving goes on.
    with suppress(OSError):
        os.write(2, text.encode("utf-8", "backslashreplace") + b"\n")

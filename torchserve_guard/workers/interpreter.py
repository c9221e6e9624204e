"""The interpreter that workers run with, asked once, in a process of its own that starts while archives are hashed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from torchserve_guard.workers import questions

PROBE = Path(__file__).with_name("probe.py")
ANSWERS_WITHIN = 10.0
KEPT = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH")


class Interpreter:
    """An interpreter under way: entering starts it, `ask` has it answer, leaving ends it.

    Its environment is built from nothing, as the workers' is: what PYTHONPATH would add they do not see either.
    """

    def __init__(self, environment: Mapping[str, str], path: str = sys.executable) -> None:
        self._path = path
        self._environment = {name: environment[name] for name in KEPT if name in environment}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it, unless it is under way; one that cannot be started answers nothing."""
        if self._process is not None:
            return self
        command = [self._path, "-P", "-X", "utf8", str(PROBE)]
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        with suppress(OSError):
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=nothing, env=self._environment, cwd="/", start_new_session=True
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            # Not `communicate`: one that was broken off cannot be called again.
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()
            self._process.wait()
            self._process = None

    def ask(self, codes: tuple[questions.Code, ...]) -> questions.Answers | None:
        """Return the answers; None when there are none, in time and in form."""
        if self._process is None:
            return None
        asked = json.dumps(questions.render(codes)).encode()
        try:
            told, _ = self._process.communicate(asked, timeout=ANSWERS_WITHIN)
            return questions.parse(json.loads(told), len(codes))
        except (OSError, subprocess.TimeoutExpired, ValueError, TypeError, KeyError, RecursionError):
            return None

"""The remembered interpreter: for many checks in one go, which is started only for what it was not asked before."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from torchserve_guard.workers.interpreter import Interpreter
from torchserve_guard.workers.questions import Answers, Code, Walked


class Remembered(Interpreter):
    """An interpreter that may be entered again and again.

    INVARIANT: an answer is good as long as a check lasts. A staged tree is named by its digest and does not change;
    that packages are installed meanwhile is left out of account.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__(environment)
        self._walked: dict[Code, Walked] = {}
        self._answers: Answers | None = None
        self._silent: set[tuple[Code, ...]] = set()

    def __enter__(self) -> Self:
        """Start nothing yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End nothing: `ask` ends what it starts."""

    def ask(self, codes: tuple[Code, ...]) -> Answers | None:
        """Return the answers, from memory where there are some; None when there are none, in time and in form."""
        new = tuple(dict.fromkeys(code for code in codes if code not in self._walked))
        if (new or self._answers is None) and not self._learnt(new):
            return None
        if self._answers is None:
            return None
        return dataclasses.replace(self._answers, models=tuple(self._walked[code] for code in codes))

    def _learnt(self, new: tuple[Code, ...]) -> bool:
        if new in self._silent:
            return False
        super().__enter__()
        try:
            answers = super().ask(new)
        finally:
            super().__exit__(None, None, None)
        if answers is None:
            self._silent.add(new)
            return False
        self._answers = answers
        self._walked |= dict(zip(new, answers.models, strict=True))
        return True

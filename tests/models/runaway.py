"""A handler that starts a process which leaves the worker's session, as torchrun's children do."""

from __future__ import annotations

import subprocess
from typing import Any


class Runaway:
    """TorchServe finds `initialize` and `handle` on the first class of the module."""

    def initialize(self, _context: Any) -> None:
        """Start a sleeper in a session of its own."""
        self.sleeper = subprocess.Popen(["/bin/sleep", "300"], start_new_session=True)

    def handle(self, data: list[dict[str, Any]], _context: Any) -> list[str]:
        """Answer with the sleeper's process number."""
        return [str(self.sleeper.pid)] * len(data)

"""A handler that will not be asked to stop: deaf to SIGTERM, SIGINT and SIGHUP, and busy for a minute."""

from __future__ import annotations

import signal
import time
from typing import Any


class Stubborn:
    """TorchServe finds `initialize` and `handle` on the first class of the module."""

    def initialize(self, _context: Any) -> None:
        """Ignore every signal that can be ignored."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    def handle(self, data: list[dict[str, Any]], _context: Any) -> list[str]:
        """Sleep for a minute."""
        time.sleep(60)
        return ["slept"] * len(data)

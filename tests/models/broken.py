"""A handler that cannot be initialized."""

from __future__ import annotations

from typing import Any


class Broken:
    """TorchServe finds `initialize` and `handle` on the first class of the module."""

    def initialize(self, _context: Any) -> None:
        """Fail, as a model does whose weights do not fit its code."""
        raise RuntimeError("the weights do not fit the code")

    def handle(self, _data: list[dict[str, Any]], _context: Any) -> list[str]:
        """Never be reached."""
        raise AssertionError("a broken model was asked")

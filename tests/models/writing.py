"""A handler that writes beside itself: each request leaves a line in its folder, and is told how many there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[str]:
    """Answer with the number of lines, or with why none could be written."""
    if data is None:
        return []
    path = Path(context.system_properties["model_dir"], "lines.txt")
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write("line\n")
    except OSError as error:
        return [type(error).__name__] * len(data)
    return [str(len(path.read_text("utf-8").splitlines()))] * len(data)

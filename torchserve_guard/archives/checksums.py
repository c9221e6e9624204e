"""`SHA256SUMS`: digests and names, line by line, as sha256sum of coreutils writes and reads them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from torchserve_guard.errors import ConfigError

_LINE = re.compile(r"(?P<digest>[0-9a-f]{64}) [ *](?:\./)?(?P<name>[^/]+)")


def parse(data: bytes, where: str) -> list[tuple[str, str]]:
    """Return (digest, name) of each line, in text (`  `) and binary (` *`) mode; raise ConfigError."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: is neither a JSON manifest nor SHA256SUMS: it is not UTF-8") from error
    rows = list(_rows(text, where))
    if not rows:
        raise ConfigError(f"{where}: lists nothing, and an empty manifest permits nothing")
    return rows


def render(rows: Iterable[tuple[str, str]]) -> bytes:
    """Return the lines that `sha256sum -c` checks."""
    return "".join(f"{digest}  {name}\n" for digest, name in rows).encode()


def _rows(text: str, where: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        if line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ConfigError(
                f"{where}:{number}: is neither JSON nor a line of SHA256SUMS "
                "(64 lower-case hexadecimal digits, a blank, a blank or `*`, a bare file name)"
            )
        yield match["digest"], match["name"]

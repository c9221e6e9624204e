"""The origin: the address of an archive that does not lie in the model store, read in one way only. Pure.

What two readers could take for two addresses is not one here: no user before the host, no host that is a number but
for four plain ones, no dot segments and no escaped ones, no fragment, nothing but ASCII. Who prints an origin, or a
text that was `redacted`, prints nothing that opens what it leads to.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from enum import Enum

LONGEST = 2048
HTTPS_PORT = 443
PORT_MAX = 65535


class Scheme(Enum):
    """Where an archive may come from."""

    FILE = "file"
    HTTPS = "https"
    S3 = "s3"
    GS = "gs"

    @property
    def remote(self) -> bool:
        """Whether the archive has to be fetched."""
        return self is not Scheme.FILE


_URL = re.compile(r"(?P<scheme>[^:/?#]+)://(?P<authority>[^/?#]*)(?P<path>/[^?#]*)(?:\?(?P<query>[^#]*))?")
_HTTPS_TEXT = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*")
_PLAIN_TEXT = re.compile(r"[A-Za-z0-9._~!$&'()+,;=:@/-]*")
_DISGUISED = re.compile(r"%(?:2[ef]|5c|[01][0-9a-f]|7f)", re.IGNORECASE)  # a dot, a slash, a backslash, a control
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::(?P<port>[1-9][0-9]{0,4}))?")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_ARCHIVES = (".mar", ".tar.gz")


@dataclass(frozen=True, slots=True)
class Origin:
    """One address. `host` is the bucket where there are buckets; `url` is what was written, and may hold secrets."""

    scheme: Scheme
    host: str
    port: int | None
    path: str
    query: str | None = field(repr=False)
    url: str = field(repr=False)

    @property
    def name(self) -> str:
        """The name that TorchServe gives the archive: the last segment (ArchiveUtils.getFilenameFromUrl)."""
        return self.path.rpartition("/")[2]

    @property
    def target(self) -> str:
        """What is asked for at the host."""
        return self.path if self.query is None else f"{self.path}?{self.query}"

    def __str__(self) -> str:
        """Return the address without its query, which may be a signature."""
        port = f":{self.port}" if self.port is not None else ""
        return f"{self.scheme.value}://{self.host}{port}{self.path}"


def looks_like_one(text: str) -> bool:
    """Return whether somebody meant an address rather than a bare name."""
    return "://" in text


def parse(text: str) -> Origin:
    """Return the address that a text spells. Raises `ValueError` that completes "`value` ..." and quotes no secret."""
    found = _URL.fullmatch(text) if len(text) <= LONGEST else None
    if found is None:
        raise ValueError(f"is not an address `scheme://host/path/NAME.mar` of at most {LONGEST} characters")
    if "@" in found["authority"]:
        raise ValueError("names a user before the host: take that out; what is asked for may be signed in its query")
    if ".." in text:
        raise ValueError("contains `..`, which TorchServe refuses as well")
    scheme = _scheme(found["scheme"])
    host, port = _READERS[scheme](found["authority"], found["path"], found["query"])
    _verify_path(found["path"])
    return Origin(scheme, host, port, found["path"], found["query"], text)


def _scheme(text: str) -> Scheme:
    if text.lower() == "http":
        raise ValueError("would be fetched in clear text, for all to see and change; use `https://`")
    try:
        return Scheme(text)
    except ValueError:
        raise ValueError(f"begins with none of {', '.join(f'`{one.value}://`' for one in Scheme)}") from None


def _verify_path(path: str) -> None:
    *folders, name = path.removeprefix("/").split("/")
    if "" in folders or "." in folders or _DISGUISED.search(path):
        raise ValueError("has an empty, a dot or an escaped segment in its path; write it plainly")
    if _NAME.fullmatch(name) is None or not name.endswith(_ARCHIVES):
        raise ValueError("does not end in the bare name of an archive, which ends in `.mar` or `.tar.gz`")


def _https(authority: str, path: str, query: str | None) -> tuple[str, int | None]:
    found = _AUTHORITY.fullmatch(authority)
    if found is None or int(found["port"] or 1) > PORT_MAX or _HTTPS_TEXT.fullmatch(path + (query or "")) is None:
        raise ValueError("is not an address of plain ASCII with a host, and a port if any")
    _verify_host(found["host"])
    return found["host"].lower(), int(found["port"]) if found["port"] is not None else None


def _verify_host(host: str) -> None:
    if host.startswith("["):
        ipaddress.IPv6Address(host[1:-1])  # its own ValueError says what is wrong
        return
    labels = host.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"has the host `{host}`, which is no name of a host")
    if _NUMBER.fullmatch(labels[-1]):
        # What inet_aton takes for an address (`0x7f.1`, `2130706433`, `0177.0.0.1`) is not what it looks like.
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError(f"has the host `{host}`, which is not plainly an address; write four numbers") from None


def _bucket(authority: str, path: str, query: str | None) -> tuple[str, int | None]:
    if _BUCKET.fullmatch(authority) is None or query is not None or _PLAIN_TEXT.fullmatch(path) is None:
        raise ValueError("is not `scheme://bucket/key` of plain characters, without a query")
    return authority, None


def _file(authority: str, path: str, query: str | None) -> tuple[str, int | None]:
    if authority or query is not None or _PLAIN_TEXT.fullmatch(path) is None:
        raise ValueError("is not `file:///path` of plain characters, without a host and without a query")
    return "", None


_READERS = {Scheme.FILE: _file, Scheme.HTTPS: _https, Scheme.S3: _bucket, Scheme.GS: _bucket}

# Each sign may be escaped, and an escape escaped again, as it stands in a request line.
_COLON, _SLASH, _AT, _QUESTION = (
    rf"(?:{sign}|%(?:25)*{code})" for sign, code in ((":", "3a"), ("/", "2f"), ("@", "40"), (r"\?", "3f"))
)
_WORDS = re.compile(r"([\s`]+)")
_HOST_BEGINS = re.compile(_SLASH + _SLASH, re.IGNORECASE)
_USER_ENDS = re.compile(_AT)
_ADDRESS_BEGINS = re.compile(_COLON + _SLASH + _SLASH, re.IGNORECASE)
_QUERY_BEGINS = re.compile(_QUESTION, re.IGNORECASE)
_SECRET = re.compile(
    r"((?:[?&;]|%(?:25)*(?:3f|26))(?:sig|token|[a-z0-9_-]*(?:signature|credential|security-token|password|api_?key))"
    r"(?:=|%(?:25)*3d))[^&;]+",
    re.IGNORECASE,
)
_HINTS = ("//", "%", "=")
HIDDEN = "..."


def redacted(text: str) -> str:
    """Return a text without what in an address opens something: its user and its query. In doubt, more is left out."""
    if not any(hint in text for hint in _HINTS):
        return text
    return "".join([_bare(word) for word in _WORDS.split(text)])


def _bare(word: str) -> str:
    host = _HOST_BEGINS.search(word)
    users = list(_USER_ENDS.finditer(word, host.end())) if host is not None else []
    if host is not None and users:
        word = word[: host.end()] + HIDDEN + word[users[-1].start() :]
    address = _ADDRESS_BEGINS.search(word)
    query = _QUERY_BEGINS.search(word, address.end()) if address is not None else None
    if query is not None and query.end() < len(word):
        word = word[: query.end()] + HIDDEN
    return _SECRET.sub(rf"\1{HIDDEN}", word)

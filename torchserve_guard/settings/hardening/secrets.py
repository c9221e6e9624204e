"""Secrets: passwords and keys that others may read, or that are good for too long."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torchserve_guard.access import Mode
from torchserve_guard.findings import Severity
from torchserve_guard.settings.hardening import places
from torchserve_guard.settings.hardening.rule import Hit, Rule, Told

PRIVATE = (("private_key_file", "the private key"), ("keystore", "the key store"))
PASSWORD = re.compile(r"(?:.*_)?pass(?:word|phrase)?")
IN_URL = re.compile(
    r"://[^/\s:@]+:[^/\s@]+@|[?&](?:x-amz-signature|x-goog-signature|sig|signature|token|api_?key|password)=[^&\s]+",
    re.IGNORECASE,
)
DAY = 86400.0
MONTH = 30 * DAY


def _readable_secrets(told: Told) -> Iterator[Hit]:
    who = places.reader(told.settings.config)
    for key, given in told.given.items() if who is not None else ():
        # `$$NAME$$` keeps the secret out of the file; a flag is not in the file.
        written = given.raw if given.raw is not None else ""
        literal = re.sub(r"\$\$[^$\s]+\$\$", "", written)
        if (PASSWORD.fullmatch(key) and literal) or IN_URL.search(literal):
            yield Hit(f"`{key}` holds a secret, and {who} may read the file", key)


def _readable_keys(told: Told) -> Iterator[Hit]:
    for key, what in PRIVATE:
        path = told.path(key)
        who = places.reader(path) if path is not None else None
        served = told.settings.tls is not None and who == places.EVERYONE  # TSG065 says so of what is served
        if who is not None and not served:
            severity = Severity.HIGH if who == places.EVERYONE else Severity.MEDIUM
            yield Hit(f"{what} {path} may be read by {who}", key, severity, f"chmod 600 {path}")
    key_file = told.settings.key_file
    who = places.reader(key_file)
    if who is not None:
        yield Hit(
            f"the keys in {key_file} may be read by {who}", key_file.name, None, f"chmod 600 {key_file}", key_file
        )


def _long_lived(told: Told) -> Iterator[Hit]:
    settings = told.settings
    used = settings.keys_required or settings.mode is Mode.EXPLICIT
    if used and settings.token_lifetime > DAY:
        severity = Severity.MEDIUM if settings.token_lifetime > MONTH else Severity.LOW
        days = settings.token_lifetime / DAY
        yield Hit(f"a key that gets out is good for up to {days:.3g} days", "token_expiration_min", severity)


RULES = (
    Rule(
        "TSG044",
        Severity.MEDIUM,
        "whoever can read the file has it, and so has every backup and every image that the file is in",
        "chmod 600 the file, or write `$$NAME$$` and give the secret in that environment variable",
        ("L01", "H70"),
        _readable_secrets,
    ),
    Rule(
        "TSG045",
        Severity.HIGH,
        "whoever has the key can be this server, and reads what is sent to it",
        "chmod 600 the file; in Kubernetes `defaultMode: 0400` for the volume",
        ("H62", "H71"),
        _readable_keys,
        also=(Severity.MEDIUM,),
    ),
    Rule(
        "TSG051",
        Severity.LOW,
        "a key leaks into histories, logs and images; the sooner it expires, the less that matters",
        "use `token_expiration_min=60`, which is the default, and let clients read the key file again",
        ("H70", "H77"),
        _long_lived,
        also=(Severity.MEDIUM,),
    ),
)

"""The allowance: whether `allowed_urls` lets an address through, asked of a process that ends in time.

An expression can take for ever over an address that was made for it, and while Python's `re` works on it no other
thread of its process runs: neither the door nor who would end it.
"""

from __future__ import annotations

import json
import subprocess
import sys

from torchserve_guard.origin import Origin
from torchserve_guard.terms import NOT_ALLOWED, Terms

PROCESSOR_SECONDS = 1
PATIENCE = 30.0
"""Seconds; a machine that is busy may take long over little."""
_ASK = f"""
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({PROCESSOR_SECONDS}, {PROCESSOR_SECONDS}))
asked = json.load(sys.stdin)
print(any(re.compile(text, flags).fullmatch(asked["address"]) is not None for text, flags in asked["expressions"]))
"""


def verify(origin: Origin, terms: Terms) -> None:
    """Return if `allowed_urls` lets an address through that anybody may have named. Raises `ValueError`."""
    expressions = [(one.pattern, one.flags) for one in terms.allowed]
    try:
        answer = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _ASK],
            input=json.dumps({"address": origin.url, "expressions": expressions}).encode(),
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            env={},
            cwd="/",
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"could not be held against `allowed_urls` ({type(error).__name__}); try again") from error
    if answer == b"False":
        raise ValueError(NOT_ALLOWED)
    if answer != b"True":
        raise ValueError("takes too long to hold against `allowed_urls`: write simpler expressions, one for each host")

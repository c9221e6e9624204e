r"""The substitution: `$$NAME$$` in a value, as TorchServe replaces it from the environment.

ConfigManager.resolveEnvVarVals hands the variable's value to Matcher.appendReplacement, to which `\` and `$` mean
something. Pure: the environment is an argument.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# The pattern of ConfigManager.java: a name of one character alone is not replaced, and one with a blank is.
VARIABLE = re.compile(r"\$\$([^$]{2,})\$\$")
MEANT = re.compile(r"\\(?P<literal>.)|\$(?P<group>[0-9]+)|(?P<bad>[\\$])", re.DOTALL)


def substitute(text: str, environment: Mapping[str, str]) -> str:
    """Return the value after the replacement. Raises `ValueError` where TorchServe would not start."""

    def value_of(match: re.Match[str]) -> str:
        if match[1] not in environment:
            raise ValueError(f"Invalid Environment Variable {match[1]}")
        return _meant(environment[match[1]], match)

    return VARIABLE.sub(value_of, text)


def _meant(value: str, match: re.Match[str]) -> str:
    def read(found: re.Match[str]) -> str:
        if found["bad"] is not None:
            raise ValueError(f"the value of {match[1]} holds a `{found['bad']}` that Java takes for a group reference")
        return found["literal"] if found["literal"] is not None else _group(found["group"], match)

    return MEANT.sub(read, value)


def _group(digits: str, match: re.Match[str]) -> str:
    """Return what `$0` or `$1` stands for; further digits count while they name a group, of which there is one."""
    number, rest = int(digits[0]), digits[1:]
    if number > 1:
        raise ValueError(f"the value of {match[1]} holds `${number}`, which Java takes for a group that is not there")
    while rest and 10 * number + int(rest[0]) <= 1:
        number, rest = 10 * number + int(rest[0]), rest[1:]
    return match[number] + rest

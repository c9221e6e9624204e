"""The body: the JSON object that registers a model or a workflow, read as strictly as a query.

TorchServe hands it to Gson (`ManagementRequestHandler.parseRequest`), which takes unquoted names, comments, and the
last of two members of one name. Here only JSON as RFC 8259 has it, and each name once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NoReturn

from torchserve_guard.errors import BadRequest
from torchserve_guard.wire.parameters import Kind, Parameter, shown

LONGEST_JSON = 65536


class _Number(str):
    """The text of a JSON number, as it was written."""

    __slots__ = ()


def parse_json(body: bytes, parameters: Iterable[Parameter]) -> tuple[tuple[str, str], ...]:
    """Return the members as pairs of text; null is absence, as to Gson. Raise BadRequest when it is not such a body."""
    if len(body) > LONGEST_JSON:
        raise _refused(f"the body has {len(body)} bytes, more than {LONGEST_JSON}")
    try:
        text = body.decode("utf-8")
        members = json.loads(
            text, object_pairs_hook=_unique, parse_int=_Number, parse_float=_Number, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise _refused(f"the body is not JSON: {error}") from error
    if not isinstance(members, dict):
        raise _refused("the body is not a JSON object")
    kinds = {parameter.name: parameter.kind for parameter in parameters}
    return tuple((name, _text(name, value, kinds.get(name))) for name, value in members.items() if value is not None)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is given more than once")
    return members


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON value")


def _text(name: str, value: object, kind: Kind | None) -> str:
    """Return a scalar as the text that Gson makes of it for a field of this kind."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, _Number) and kind is Kind.INTEGER:
        return _whole(value)
    if not isinstance(value, str):
        raise _refused(f"the member {shown(name)} is neither text nor a number nor true or false")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise _refused(f"the member {shown(name)} has half a surrogate pair")
    return str(value)


def _whole(number: str) -> str:
    """Return `3` for `3.0` and `3e0` too (JsonReader.nextInt); another number as it is, to be refused by its kind."""
    if len(number) > len("-9007199254740992.0"):
        return number
    value = float(number)
    return str(int(value)) if value.is_integer() else number


def _refused(reason: str) -> BadRequest:
    return BadRequest("The request body is not acceptable.", reason=reason, rule="wire.body")

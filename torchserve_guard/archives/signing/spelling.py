"""The spelling: how the parts of Sigstore's JSON are written, each value in one way only.

Pure.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictStr

NUMBER = re.compile(r"0|[1-9][0-9]{0,15}")
_LARGEST_NUMBER = (1 << 53) - 1


class Shape(BaseModel):
    """A part of a document: with the fields that are named, and no other."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)  # most commands meet no bundle


def plain_base64(value: str) -> str:
    """Return the value if it is base64 in its one spelling, and something; raise `ValueError`."""
    # INVARIANT: one spelling for each sequence of bytes; padding bits and stray characters carry nothing.
    try:
        decoded = base64.b64decode(value.encode("ascii"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("is not base64") from error
    if to_base64(decoded) != value or not decoded:
        raise ValueError("is not base64 in its one spelling, or empty")
    return value


def to_base64(data: bytes) -> str:
    """Return the bytes in base64."""
    return base64.b64encode(data).decode("ascii")


def _number(value: object) -> object:
    """Return a number that is spelt as protobuf's JSON spells one of 64 bits: as a text."""
    if not isinstance(value, str) or NUMBER.fullmatch(value) is None or int(value) > _LARGEST_NUMBER:
        raise ValueError("is not a number in quotation marks")
    return int(value)


Bytes = Annotated[StrictStr, AfterValidator(plain_base64)]
Number = Annotated[int, BeforeValidator(_number)]
Hash = Annotated[Bytes, Field(min_length=44, max_length=44)]

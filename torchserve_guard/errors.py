"""Everything raised on purpose: one tree, with exit codes.

A message is for the operator: lower case, where, the user's words in backticks, why, and what to do.
What a client is told is less: see `Refusal`.
"""

from __future__ import annotations

from collections.abc import Iterable

from torchserve_guard.escape import printable


class GuardError(Exception):
    """The base of all errors raised on purpose; anything else that escapes is a bug.

    It is one complaint or several, each told in its own place.
    """

    exit_code = 1

    def __init__(self, *complaints: str) -> None:
        super().__init__("\n".join(complaints))
        self.complaints: tuple[str, ...] = complaints


class ConfigError(GuardError):
    """What was told is not acceptable: one complaint or several, each with file, line and key."""

    exit_code = 2

    # INVARIANT: a complaint is one line, so that nothing in it that somebody else named can pass for another.
    def __init__(self, *complaints: str) -> None:
        super().__init__(*map(printable, complaints))

    @classmethod
    def of(cls, complaints: Iterable[str]) -> ConfigError:
        """Return one error that carries all complaints, in their order."""
        return cls(*complaints)


class VerificationError(GuardError):
    """What is there is not what was promised: one complaint or several, each names the archive and the member."""

    exit_code = 4

    # INVARIANT: a complaint is one line, as those of `ConfigError` are.
    def __init__(self, *complaints: str) -> None:
        super().__init__(*map(printable, complaints))


class FrontendError(GuardError):
    """TorchServe did not start, or died: quotes its log."""

    exit_code = 5


class AuditError(GuardError):
    """The record cannot be written, or does not verify."""

    exit_code = 6


class Refusal(GuardError):
    """One request turned away.

    `status` is the HTTP status, `kind` the `type` of TorchServe's error body, `message` what the client
    is told, and `reason` (with `rule`) what only the audit log is told.
    """

    status = 403
    kind = "ForbiddenException"

    def __init__(self, message: str, *, reason: str = "", rule: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or message
        self.rule = rule or type(self).__name__


class BadRequest(Refusal):
    """The request is not one that the grammar knows how to read without doubt (HTTP 400)."""

    status = 400
    kind = "BadRequestException"


class Unauthenticated(Refusal):
    """The principal could not be established, and the operation needs one (HTTP 401)."""

    status = 401
    kind = "InvalidKeyException"


class Forbidden(Refusal):
    """The policy does not permit the operation (HTTP 403)."""


class NotFound(Refusal):
    """No such route on this listener (HTTP 404)."""

    status = 404
    kind = "ResourceNotFoundException"


class MethodNotAllowed(Refusal):
    """The route exists, the method is not one of its methods (HTTP 405)."""

    status = 405
    kind = "MethodNotAllowedException"


class TooLarge(Refusal):
    """The body is over its limit (HTTP 413)."""

    status = 413
    kind = "RequestEntityTooLargeException"


class HeaderTooLarge(Refusal):
    """The request head is over its limit (HTTP 431, RFC 6585 section 5)."""

    status = 431
    kind = "RequestHeaderFieldsTooLargeException"


class TooMany(Refusal):
    """More at once than one client, or one model, may have (HTTP 429, RFC 6585 section 4)."""

    status = 429
    kind = "TooManyRequestsException"


class Unavailable(Refusal):
    """Not now: the door is closed, TorchServe is gone, or the record cannot be written (HTTP 503)."""

    status = 503
    kind = "ServiceUnavailableException"


class UpstreamFailed(Refusal):
    """TorchServe did not answer in HTTP, or hung up before it did (HTTP 502)."""

    status = 502
    kind = "BadGatewayException"

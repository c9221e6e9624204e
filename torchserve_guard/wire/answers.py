"""The answers: refusals in the words and the shape of TorchServe's own errors."""

from __future__ import annotations

import json

from torchserve_guard.errors import Refusal

METHOD_NOT_ALLOWED = "Requested method is not allowed, please refer to API document."
"""Stock's text of a 405 (MethodNotAllowedException)."""

RESOURCE_NOT_FOUND = "Requested resource is not found, please refer to API document."
"""Stock's text of a 404 for a path (ResourceNotFoundException)."""


def refusal_body(refusal: Refusal) -> bytes:
    """Return the body of a refusal as NettyUtils.sendError writes it: Gson's pretty printing, and a newline."""
    shape = {"code": refusal.status, "type": refusal.kind, "message": refusal.message}
    text = json.dumps(shape, indent=2, ensure_ascii=False)
    # Gson escapes the two line ends of Unicode that JavaScript once could not have in a string.
    text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return text.encode("utf-8", "replace") + b"\n"

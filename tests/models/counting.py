"""A handler that answers in pieces: `3` is answered with `1`, `2`, `3`, each as soon as it is known."""

from __future__ import annotations

import time
from typing import Any

from ts.handler_utils.utils import send_intermediate_predict_response

PAUSE = 0.02


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[str]:
    """Count to the number in the request."""
    if data is None:
        return []
    last = int(bytes(data[0].get("data") or data[0].get("body") or b"1"))
    for number in range(1, last):
        send_intermediate_predict_response([str(number)], context.request_ids, "Intermediate", 200, context)
        time.sleep(PAUSE)
    return [str(last)] * len(data)

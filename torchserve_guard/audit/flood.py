"""The flood: which refusals are worth a line of their own, and what is said of all the others together.

Pure: the time is an argument. A client decides how often it is refused, not how fast the record grows. Who was refused
for what right is counted apart from who was merely not understood, and each listener's refusals apart from the others',
so that no flood of nonsense, and none where everybody may ask, hides an attempt to manage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from torchserve_guard.audit.entry import Value

FROM_ONE, FROM_ONE_EACH_S = 100.0, 1.0
FROM_ALL, FROM_ALL_EACH_S = 500.0, 5.0
SUMMARY_EVERY_S = 10.0
_MOST_SOURCES = 1024
_MOST_NAMED = 8
_RIGHTS = frozenset({401, 403, 405})
_NONSENSE = "wire."  # the rules of what no right would make a request; 405 is among their answers


@dataclass(slots=True)
class _Bucket:
    """So many lines may be written now, and some more with each second."""

    most: float
    each: float
    at: float
    left: float = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.most

    def fill(self, now: float) -> bool:
        """Return whether there is one left."""
        self.left = min(self.most, self.left + max(0.0, now - self.at) * self.each)
        self.at = now
        return self.left >= 1


class Flood:
    """The refusals of one record. `now` is in seconds, of any clock."""

    def __init__(self, now: float) -> None:
        self._begun = now
        self._all: dict[tuple[str, bool], _Bucket] = {}
        self._each: dict[tuple[str, str, str], _Bucket] = {}
        self._listeners: Counter[str] = Counter()
        self._rules: Counter[str] = Counter()
        self._sources: Counter[str] = Counter()
        self._summed_up = now

    def admits(self, listener: str, rule: str, source: str, status: int, now: float) -> bool:
        """Return whether this refusal has a line of its own; if not, it is counted."""
        every, one = self._all_of(listener, rule, status), self._bucket((listener, rule, source), now)
        # Both are filled, whatever the first has.
        if every.fill(now) & one.fill(now):
            every.left -= 1
            one.left -= 1
            return True
        self._listeners[listener] += 1
        self._rules[rule] += 1
        if source in self._sources or len(self._sources) < _MOST_SOURCES:
            self._sources[source] += 1
        return False

    def _all_of(self, listener: str, rule: str, status: int) -> _Bucket:
        kind = listener, status in _RIGHTS and not rule.startswith(_NONSENSE)
        bucket = self._all.get(kind)
        if bucket is None:  # there are few listeners
            bucket = self._all[kind] = _Bucket(FROM_ALL, FROM_ALL_EACH_S, self._begun)
        return bucket

    def _bucket(self, kind: tuple[str, str, str], now: float) -> _Bucket:
        bucket = self._each.get(kind)
        if bucket is None:
            if len(self._each) >= _MOST_SOURCES:
                del self._each[next(iter(self._each))]
            bucket = self._each[kind] = _Bucket(FROM_ONE, FROM_ONE_EACH_S, now)
        return bucket

    def summary(self, now: float, *, last: bool = False) -> Mapping[str, Value] | None:
        """Return what was counted and not told, when it is time for it or this is the last."""
        if not self._rules or (now - self._summed_up < SUMMARY_EVERY_S and not last):
            return None
        told: dict[str, Value] = {
            "count": self._rules.total(),
            "listeners": dict(self._listeners.most_common()),
            "rules": dict(self._rules.most_common()),
            "peers": dict(self._sources.most_common(_MOST_NAMED)),
        }
        self._listeners.clear()
        self._rules.clear()
        self._sources.clear()
        self._summed_up = now
        return told

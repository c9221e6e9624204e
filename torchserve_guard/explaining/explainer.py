"""The explainer: for each key what stock TorchServe would use and how it came to it, what the guard uses, and why.

Nothing is started and nothing raised for a value that is not acceptable: that is what an explanation is wanted for.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torchserve_guard.access import Mode
from torchserve_guard.errors import ConfigError
from torchserve_guard.explaining.explanation import Explained, Explanation, Guarded
from torchserve_guard.explaining.secrets import without_secrets
from torchserve_guard.explaining.words import AT_RUN_TIME, FOLLOWING, IN_PLACE, NO_EFFECT, OTHER_DEFAULT
from torchserve_guard.findings import Finding
from torchserve_guard.frontend.configuration import PINNED, Launch
from torchserve_guard.frontend.rundirectory import RunDirectory
from torchserve_guard.settings import Flags, Settings, Surroundings, differences, properties
from torchserve_guard.settings.keys import KEYS, NOT_YET, Fate, Key
from torchserve_guard.settings.load import examined
from torchserve_guard.settings.reading import SPELLINGS, Given, Reading
from torchserve_guard.settings.stock import Chain, CommandLine, Origin, RealDisk, Step, Stock, model


def explain(
    line: CommandLine, flags: Flags, around: Surroundings, keys: Iterable[str] = (), *, everything: bool = False
) -> Explanation:
    """Return the explanation of `keys`, else of those that were given or differ, else of `everything`.

    `line.ts_config` is the configuration. Raises `ConfigError` for an unknown key and for a file that cannot be read.
    """
    wanted = tuple(dict.fromkeys(_known(key) for key in keys))
    stock = model(line, around.environment, RealDisk(around.cwd))
    ours = _ours(line, flags, around)
    made = _Explaining(stock, ours.reading, ours.settings, line, around)
    rows = tuple(made.row(name) for name in wanted or (*KEYS, *NOT_YET) if name not in SPELLINGS)
    shown = rows if wanted or everything else tuple(row for row in rows if row.stock.told or row.differs or _told(row))
    whole = Explanation(line.ts_config, stock.source, stock.refusals, ours.complaints, ours.findings, shown)
    return without_secrets(whole, around.environment, ours.reading)


@dataclass(frozen=True, slots=True)
class _Ours:
    """What the guard makes of the same; there is no reading of a file that it takes for none of properties."""

    reading: Reading | None = None
    settings: Settings | None = None
    complaints: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def _ours(line: CommandLine, flags: Flags, around: Surroundings) -> _Ours:
    if line.ts_config is None:
        return _Ours(complaints=("no configuration; name it with --config FILE",))
    config, disk = Path(line.ts_config), RealDisk(around.cwd)
    data = disk.read(line.ts_config)
    try:
        reading, settings = examined(config, properties.parse(data, line.ts_config), flags, around)
        findings = (*reading.findings, *differences.check(config, data, around.environment, disk))
    except ConfigError as error:
        return _Ours(complaints=error.complaints)
    return _Ours(reading, settings, tuple(reading.complaints), findings)


def _told(row: Explained) -> bool:
    return bool(row.complaints) or row.guarded.where not in {"default", "the guard", ""}


def _known(name: str) -> str:
    """Return the key's name. Raises `ConfigError` with the nearest one."""
    key = SPELLINGS.get(name, name)
    if key in KEYS or key in NOT_YET:
        return key
    near = difflib.get_close_matches(name[:100], [*KEYS, *NOT_YET], 1, 0.5)
    nearest = f"; did you mean `{near[0]}`?" if near else ""
    raise ConfigError(f"`{name}` is not a key of TorchServe 0.12.0 or of the guard{nearest}")


class _Explaining:
    """One explanation in the making."""

    def __init__(
        self,
        stock: Stock,
        reading: Reading | None,
        settings: Settings | None,
        line: CommandLine,
        around: Surroundings,
    ) -> None:
        self.stock = stock
        self.reading = reading
        self.settings = settings
        self.line = line
        self.around = around
        self.launch = _launch(settings)

    def row(self, name: str) -> Explained:
        """Return what is to be said of one key."""
        key, chain = KEYS.get(name), self.stock.chain(name)
        guarded = self._guarded(key, name)
        differs = key is not None and key.fate is not Fate.GUARD and not _same(chain, guarded)
        why = self._why(key, chain) if differs and key is not None else NOT_YET.get(name, "")
        complaints = self.reading.complaints if self.reading is not None else []
        about = tuple(one for one in complaints if re.search(rf"`{re.escape(name)}[=`]", one))
        return Explained(name, key.fate if key is not None else None, chain, guarded, differs, why, about)

    def _guarded(self, key: Key | None, name: str) -> Guarded:
        if key is None or self.reading is None:
            return Guarded(None, "")
        given = self.reading.given.get(name)
        return {Fate.GUARD: self._own, Fate.PIN: self._pinned, Fate.REFUSE: self._refused, Fate.PASS: self._passed}[
            key.fate
        ](key, given)

    def _passed(self, key: Key, given: Given | None) -> Guarded:
        if key.always_read and key.variable in self.around.environment:
            value = self.stock.chain(key.name).value
            return Guarded(value, str(key.variable), value)
        value = given.text if given is not None else None
        return Guarded(key.default if value is None else value, _where(given), value)

    def _refused(self, key: Key, _given: Given | None) -> Guarded:
        if key.name in IN_PLACE:
            return Guarded(IN_PLACE[key.name], "the guard")
        if key.name in PINNED:  # refused, and said besides: the default of another TorchServe may be another
            told = PINNED[key.name](self.launch)
            return Guarded(told, "the guard", told)
        return Guarded(key.default, "default")

    def _own(self, key: Key, given: Given | None) -> Guarded:
        following = FOLLOWING.get(key.name)
        if given is None and following is not None and self.settings is not None:
            return Guarded(str(following(self.settings)), "default")
        return Guarded(given.text if given is not None else key.default, _where(given))

    def _pinned(self, key: Key, given: Given | None) -> Guarded:
        told = AT_RUN_TIME.get(key.name) or (PINNED[key.name](self.launch) if key.name in PINNED else None)
        if key.name in NO_EFFECT:
            return Guarded(told, "the guard", told)
        default, _ = OTHER_DEFAULT.get(key.name, (key.default, ""))
        return Guarded(given.text if given is not None else default, _where(given), told)

    def _why(self, key: Key, chain: Chain) -> str:
        last = next((step for step in reversed(chain.steps) if step.counts), None)
        if key.name in NO_EFFECT:
            return NO_EFFECT[key.name]
        if key.fate is Fate.REFUSE and chain.told:
            return f"the guard does not take it: it {key.why}"
        if key.name in OTHER_DEFAULT and not chain.told:
            return OTHER_DEFAULT[key.name][1]
        if last is None or self.line.ts_config is None:
            return "the guard is started with --config, and reads nothing unasked"
        return self._origin(last)

    def _origin(self, last: Step) -> str:
        """Return why the last step of stock's chain is none of the guard's."""
        if last.origin in {Origin.FILE, Origin.SNAPSHOT, Origin.DEFAULT} and self.stock.source != self.line.ts_config:
            return f"stock would read {self.stock.source or 'no file'}, the guard reads {self.line.ts_config}"
        return {
            Origin.LAUNCHER: "stock's launcher has a reader of its own; the guard reads as Java does",
            Origin.ENVIRONMENT: f"the guard does not take {last.where}",
            Origin.EXPANSION: "stock takes `$` and backslashes in a variable's value for its own",
            Origin.DERIVED: f"stock takes it from {last.where}",
        }.get(last.origin, "the guard refuses what stands there")


def _same(chain: Chain, guarded: Guarded) -> bool:
    """Whether stock and the guard use the same; the machine's part in `number_of_gpu` is the same for both."""
    if chain.key in IN_PLACE and not chain.told:
        return True
    counted = [step for step in chain.steps if step.counts]
    if chain.key == "number_of_gpu" and counted[-1].origin is Origin.DERIVED:
        counted.pop()
    return (counted[-1].value if counted else None) == guarded.value


def _where(given: Given | None) -> str:
    return given.where if given is not None else "default"


def _launch(settings: Settings | None) -> Launch:
    """Return a launch from nowhere: enough for what the guard says whatever the paths are."""
    explicit = settings is not None and settings.mode is Mode.EXPLICIT
    return Launch(Path(), Path(), (), Path(), RunDirectory(Path()), Path(), {}, enable_model_api=explicit)

"""How far git is with moving objects, as it says itself on standard error (git, progress.c). Pure but for its state."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_LINE = re.compile(
    r"(?:remote: )?(?P<what>[A-Z][a-z]+ [a-z]+):\s+\d+%\s+\((?P<done>\d+)/(?P<total>\d+)\)"
    r"(?:, (?P<size>[\d.]+) (?P<unit>bytes|[KMGT]iB)(?: \| (?P<speed>[\d.]+) (?P<per>bytes|[KMGT]iB)/s)?)?"
)
FETCHED, PUSHED = "fetched from upstream", "pushed to Gitea"
_MOVES = {"Receiving objects": FETCHED, "Unpacking objects": FETCHED, "Writing objects": PUSHED}


@dataclass(slots=True)
class Transfer:
    """What has come and gone so far. Written by the thread that reads git, read by whoever tells; never runs back."""

    stage: str = ""
    """What is happening to the objects; empty before anything moves."""
    percent: int = 0
    """Of this stage."""
    bytes_per_second: float | None = None
    _objects: dict[str, tuple[int, int]] = field(default_factory=dict)
    _bytes: dict[str, int] = field(default_factory=dict)

    @property
    def objects_done(self) -> int:
        """Objects fetched, and objects pushed."""
        return sum(done for done, _ in self._objects.values())

    @property
    def objects_total(self) -> int:
        """How many there are to be, of the stages that have begun."""
        return sum(total for _, total in self._objects.values())

    @property
    def bytes_done(self) -> int:
        """Bytes of packs, fetched and pushed."""
        return sum(self._bytes.values())

    def heard(self, line: str) -> bool:
        """Take one line of git's; False when it is not about progress, and may be an error."""
        match = _LINE.match(line.strip())
        if match is None:
            return not line.strip()
        stage = _MOVES.get(match["what"])
        if stage is None:
            return True  # counting, compressing, resolving: nothing moves
        self.stage = stage
        done = max(self._objects.get(stage, (0, 0))[0], int(match["done"]))
        total = max(done, int(match["total"]))
        self._objects[stage] = done, total
        self.percent = 100 * done // total if total else 0
        if match["size"]:
            size = int(float(match["size"]) * _UNITS[match["unit"]])
            self._bytes[stage] = max(self._bytes.get(stage, 0), size)
        if match["speed"]:
            self.bytes_per_second = float(match["speed"]) * _UNITS[match["per"]]
        return True

"""Which faults wait to happen on a host, and what happens when one's moment has come."""

import errno as numbers
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import TypeVar

from mdev_user.errors import error_from
from mdev_user.testing.hosts.faults import (
    AnyFault,
    AttributeFails,
    CreateFails,
    CreateTakes,
    LoseEvent,
    RemoveTakes,
    conditions,
)

_log = logging.getLogger(__name__)

_F = TypeVar("_F", bound=AnyFault)


@dataclass(eq=False)
class _Armed:
    fault: AnyFault
    hits: int = 0
    cleared: Event = field(default_factory=Event)

    @property
    def spent(self) -> bool:
        return self.fault.times is not None and self.hits >= self.fault.times

    def fits(self, facts: Mapping[str, str]) -> bool:
        return all(facts.get(name) == value for name, value in conditions(self.fault).items())


class Injection:
    """The faults of one host. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._armed: list[_Armed] = []

    def arm(self, fault: AnyFault) -> None:
        """Of several that fit, the one that was armed first happens."""
        with self._lock:
            self._armed.append(_Armed(fault))

    def clear(self, fault: AnyFault | None) -> None:
        """Forget it, or all; what it delays goes on at once."""
        with self._lock:
            gone = [each for each in self._armed if fault is None or each.fault == fault]
            self._armed = [each for each in self._armed if each not in gone]
        for each in gone:
            each.cleared.set()

    def hits(self, fault: AnyFault) -> int:
        """How often it has happened."""
        with self._lock:
            return sum(each.hits for each in self._armed if each.fault == fault)

    def waiting(self) -> list[AnyFault]:
        """Those that have not happened as often as they were to; one that always happens, that never did."""
        with self._lock:
            return [each.fault for each in self._armed if not (each.spent or (each.fault.times is None and each.hits))]

    def create(self, parent: str, type_id: str) -> None:
        """A driver is to create an mdev."""
        facts = {"parent": parent, "type_id": type_id}
        self._delay(CreateTakes, facts)
        self._refuse(CreateFails, facts, f"create of {type_id} on {parent}")

    def remove(self, parent: str, type_id: str) -> None:
        """An mdev is taken from its driver."""
        self._delay(RemoveTakes, {"parent": parent, "type_id": type_id})

    def attribute(self, parent: str, attribute: str) -> None:
        """A driver's own attribute is read or written."""
        self._refuse(AttributeFails, {"parent": parent, "attribute": attribute}, f"{attribute} of {parent}")

    def loses(self, action: str, subsystem: str, devpath: str) -> bool:
        """Whether a uevent reaches nobody."""
        facts = {"action": action, "subsystem": subsystem, "name": devpath.rpartition("/")[2]}
        return self._take(LoseEvent, facts) is not None

    def _take(self, kind: type[_F], facts: Mapping[str, str]) -> tuple[_F, Event] | None:
        with self._lock:
            for each in self._armed:
                if isinstance(each.fault, kind) and not each.spent and each.fits(facts):
                    each.hits += 1
                    _log.info("%r: %s", each.fault, dict(facts))
                    return each.fault, each.cleared
        return None

    def _delay(self, kind: type[CreateTakes] | type[RemoveTakes], facts: Mapping[str, str]) -> None:
        taken = self._take(kind, facts)
        if taken is not None:
            fault, cleared = taken
            cleared.wait(fault.seconds)

    def _refuse(self, kind: type[CreateFails] | type[AttributeFails], facts: Mapping[str, str], what: str) -> None:
        taken = self._take(kind, facts)
        if taken is not None:
            number = taken[0].errno
            raise error_from(number, f"{what}: {numbers.errorcode[number]}, a fault that the test asked for")

"""Faults of the engine, one line broken each: what `check` is there to catch.

``python -m drivers.faults`` (in tests/) prints the list. A fault is put into the interpreters that `check` starts, and
into nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mdev_user.driver import attributes, device, levels, parent, pools, state, stepping
from mdev_user.driver.saving import incoming, landing, outgoing, records, shadow, snapshot, transfer
from mdev_user.driver.saving import state as saved_state
from mdev_user.host.jobs import Jobs
from mdev_user.pci import config, interrupts
from mdev_user.pci.masked import Image, MaskedBytes
from mdev_user.regs import arrays, dispatch, fields, registers, slots, space
from mdev_user.regs.entries import Map
from mdev_user.regs.kinds import RO, Masks
from mdev_user.vfio.migration_states import MigrationFlags

# Any: engine code of all kinds, which a fault takes the place of
Break = Callable[[], Any]  # Any: as above


@dataclass(frozen=True)
class Fault:
    """What is broken, and which of the checks sees it."""

    what: str
    check: str
    breaks: Break


FAULTS: dict[str, Fault] = {}


def fault(what: str, check: str) -> Callable[[Break], Break]:
    def kept(breaks: Break) -> Break:
        FAULTS[breaks.__name__] = Fault(what, check, breaks)
        return breaks

    return kept


def seed(name: str) -> None:
    """Break the engine of this interpreter."""
    FAULTS[name].breaks()


def replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:  # Any: as above
    """Put what ``make`` makes of a function in its place."""
    setattr(owner, name, make(getattr(owner, name)))


# --- saving and loading -----------------------------------------------------------------------------------------


@fault("a register is not saved", "behaviour")
def register_not_saved() -> None:
    replace(transfer, "values_of", lambda real: lambda units: _without(real(units), "regs.result"))


@fault("a register of a region beside the BARs is not saved", "behaviour")
def region_not_saved() -> None:
    replace(transfer, "values_of", lambda real: lambda units: _without(real(units), "desk.moved"))


@fault("the registers of a part are not saved", "behaviour")
def part_not_saved() -> None:
    replace(transfer, "values_of", lambda real: lambda units: _without(real(units), "ports[0]"))


def _without(values: dict[str, Any], prefix: str) -> dict[str, Any]:  # Any: as above
    return {name: value for name, value in values.items() if not name.startswith(prefix)}


@fault("a Saved is not saved", "behaviour")
def saved_not_saved() -> None:
    replace(state.Saved, "_save", lambda _real: lambda _self, _value: None)


@fault("a Table is not saved", "behaviour")
def table_not_saved() -> None:
    replace(state.Table, "_save", lambda _real: lambda _self, _value: None)


@fault("an Attribute that the driver sets is not saved", "behaviour")
def attribute_not_saved() -> None:
    replace(attributes.Attribute, "_save", lambda _real: lambda _self, _value: None)


@fault("Memory is not saved", "behaviour")
def memory_not_saved() -> None:
    replace(shadow.Shadow, "changed", lambda _real: lambda _self, _budget: iter(()))


@fault("a page that was sent and then written again is not sent again", "behaviour")
def dirty_page_not_sent() -> None:
    def once(real: Any) -> Any:  # Any: as above
        def changed(self: Any, budget: Any) -> Any:  # Any: as above
            if not hasattr(self, "passed"):
                yield from real(self, budget)
                self.passed = True

        return changed

    replace(shadow.Shadow, "changed", once)


@fault("the second of two runs of pages is loaded to the first's place", "behaviour")
def pages_misplaced() -> None:
    def put(real: Any) -> Any:  # Any: as above
        return lambda self, runs, pages: [real(self, [(0, count)], pages) for _at, count in runs]

    replace(landing._Landed, "put", put)


@fault("a device cannot be migrated", "behaviour")
def no_migration() -> None:
    replace(device.Device, "migration_flags", lambda _real: lambda _self: MigrationFlags(0))


@fault("what a stream is read into is not what the device becomes", "behaviour")
def nothing_transferred() -> None:
    replace(incoming._Records, "finish", lambda _real: lambda _self: None)


@fault("a device that is copied while it runs changes by it", "behaviour")
def copying_changes_the_device() -> None:
    def spoiling(real: Any) -> Any:  # Any: as above
        def read(self: Any, most: int) -> Any:  # Any: as above
            used = self._device.function._settings
            used["used"] = used.get("used", 0) + (0 if self._stopped else 1)
            return real(self, most)

        return read

    replace(outgoing.DeviceOutgoing, "read", spoiling)


@fault("a stream's checksums are not looked at", "states")
def checksums_ignored() -> None:
    def checked(self: Any, record: memoryview) -> Any:  # Any: as above
        kind, _size, _crc = records._HEAD.unpack_from(record)
        return records.Kind(kind), record[records._HEAD.size :]

    replace(records.Reader, "_checked", lambda _real: checked)


@fault("pages of a stream that is refused stay", "states")
def refused_pages_stay() -> None:
    replace(landing.InPlace, "undo", lambda _real: lambda _self: None)


@fault("pages that a stream does not have stay as they were", "states")
def old_pages_stay() -> None:
    replace(landing.InPlace, "finish", lambda _real: lambda _self: None)


@fault("a job that is under way is not saved", "behaviour")
def job_not_saved() -> None:
    replace(transfer, "jobs_of", lambda _real: lambda *_arguments: [])


@fault("a job that is loaded sleeps from the beginning", "behaviour")
def sleep_not_saved() -> None:
    replace(stepping.Slept, "__init__", lambda real: lambda self, _credit=0.0: real(self, 0.0))


@fault("config space is not loaded", "behaviour")
def config_not_loaded() -> None:
    replace(config.ConfigSpace, "load", lambda _real: lambda _self, _state: None)


@fault("the levels of interrupts are not loaded", "behaviour")
def levels_not_loaded() -> None:
    replace(levels.Levels, "adopt", lambda _real: lambda _self, _levels: None)
    replace(interrupts.Interrupts, "load", lambda _real: lambda _self, _state: None)


@fault("loading believes a register's value", "states")
def register_believed() -> None:
    replace(saved_state, "_register", lambda _real: lambda _name, _slot, value: value)


@fault("loading changes the device before all was checked", "states")
def load_not_atomic() -> None:
    def eager(real: Any) -> Any:  # Any: as above
        def checked(units: Any, values: Any) -> Any:  # Any: as above
            for unit in units.values():
                for member in unit._plan.state:
                    unit._state[member._name] = member._fresh()
            return real(units, values)

        return checked

    replace(transfer, "checked", eager)


@fault("damaged msgpack raises what msgpack raises", "states")
def decoder_trusted() -> None:
    def careless(data: bytes, _memory: int) -> Any:  # Any: as above
        return snapshot._DECODER.decode(memoryview(data)[snapshot._HEADER.size :])

    replace(transfer, "from_bytes", lambda _real: careless)


@fault("saving changes the device", "behaviour")
def saving_changes_the_device() -> None:
    def spoiling(real: Any) -> Any:  # Any: as above
        def stream_of(found: Any, memory: Any) -> Any:  # Any: as above
            found.function._settings["used"] = found.function._settings.get("used", 0) + 1
            return real(found, memory)

        return stream_of

    replace(transfer, "stream_of", spoiling)


# --- registers --------------------------------------------------------------------------------------------------


def _masks(change: Callable[[Masks], Masks]) -> None:
    for module in (registers,):
        replace(module, "masks_of", lambda real: lambda parts: change(real(list(parts))))


def _changed(masks: Masks, **changes: int) -> Masks:
    values = {name: getattr(masks, name) for name in Masks.__slots__}
    return Masks(**{**values, **changes})


@fault("a write-1-to-clear mask is inverted: 1 sets, and clears nothing", "rules")
def clear_inverted() -> None:
    _masks(lambda masks: _changed(masks, clear=masks.put, put=masks.clear))


@fault("what is write-only can be read", "rules")
def hidden_shown() -> None:
    _masks(lambda masks: _changed(masks, hidden=0))


@fault("a read does not clear what is read-to-clear", "rules")
def not_cleared_by_read() -> None:
    _masks(lambda masks: _changed(masks, once=0))


@fault("a guest can write what is read-only", "rules")
def read_only_written() -> None:
    def writable(real: Any) -> Any:  # Any: as above
        def masks_of(parts: Any) -> Masks:  # Any: as above
            given = list(parts)
            read_only = sum(bits for bits, kind in given if kind is RO)
            masks: Masks = real(given)
            return _changed(masks, store=masks.store | read_only)

        return masks_of

    replace(registers, "masks_of", writable)


@fault("a bank's condition is inverted", "rules")
def bank_inverted() -> None:
    replace(slots.Condition, "holds", lambda real: lambda self, values: not real(self, values))


@fault("an access that crosses a register's end loses the rest", "rules")
def straddling_cut() -> None:
    def first(real: Any) -> Any:  # Any: as above
        def touched(self: Any, *arguments: Any, **keywords: Any) -> Any:  # Any: as above
            yield from list(real(self, *arguments, **keywords))[:1]

        return touched

    replace(space.RegisterSpace, "_touched", first)


@fault("the bytes of a part of a register are written at its lowest bits", "rules")
def part_misplaced() -> None:
    def shifted(slot: slots.Slot, start: int, end: int) -> tuple[int, int]:
        return 0, (1 << 8 * (end - start)) - 1

    replace(space, "_part", lambda _real: shifted)


@fault("half an eight-byte register is written over the other half", "rules")
def half_misplaced() -> None:
    replace(dispatch, "_combine", lambda real: lambda slot, shift, enable: real(slot, 0, enable))


@fault("the elements of an array lie one byte too far apart", "rules")
def array_misplaced() -> None:
    def wider(real: Any) -> Any:  # Any: as above
        def kept(self: Any, *arguments: Any, **keywords: Any) -> None:  # Any: as above
            real(self, *arguments, **keywords)
            self._step += 1

        return kept

    replace(arrays.Each, "__init__", wider)


@fault("a field that the driver sets takes the bits beside it", "rules")
def field_too_wide() -> None:
    def spilling(self: Any, obj: Any, value: Any) -> None:  # Any: as above
        obj._values[obj._index] = self._codec.encode(value) << self._lsb

    replace(fields.Field, "__set__", lambda _real: spilling)


@fault("a read changes the register", "rules")
def read_writes() -> None:
    def changing(real: Any) -> Any:  # Any: as above
        def read(self: Any, offset: int, count: int) -> bytes:  # Any: as above
            data: bytes = real(self, offset, count)
            if offset < 16 and self._layout.bar == "Regs":
                self.values[0] ^= 1 << 20
            return data

        return read

    replace(space.RegisterSpace, "read", changing)


@fault("an access beyond the bar's end is done", "rules")
def end_not_checked() -> None:
    replace(space, "OutOfRange", lambda _real: lambda *_arguments: Exception)


@fault("two devices share their registers", "behaviour")
def registers_shared() -> None:
    known: dict[type, list[int]] = {}
    real = vars(Map)["_on"].__func__
    shared = classmethod(lambda cls, values, base: real(cls, known.setdefault(cls, values), base))
    replace(Map, "_on", lambda _real: shared)


# --- interrupts -------------------------------------------------------------------------------------------------


@fault("an interrupt is not settled at the end of a step", "behaviour")
def not_settled() -> None:
    replace(levels.Levels, "settle", lambda _real: lambda _self: None)


@fault("an interrupt never falls", "behaviour")
def never_lowered() -> None:
    replace(interrupts.Interrupts, "lower_level", lambda _real: lambda _self, _vector: None)


@fault("an interrupt does not ask for its enable bit", "behaviour")
def enable_ignored() -> None:
    def always(real: Any) -> Any:  # Any: as above
        def watch(self: Any, *arguments: Any) -> None:  # Any: as above
            real(self, *arguments)
            self._gates = [(*gate[:4], [1], 0, 1) for gate in self._gates]

        return watch

    replace(levels.Levels, "_watch", always)


@fault("a part's interrupts take the vectors of the function", "behaviour")
def vectors_shared() -> None:
    replace(
        levels.Levels,
        "__init__",
        lambda real: lambda self, pins, unit, plan, _vector: real(self, pins, unit, plan, 0),
    )


@fault("a message is lost", "behaviour")
def message_lost() -> None:
    replace(interrupts.Interrupts, "_send", lambda _real: lambda _self, _vector: None)


@fault("a message that waits is forgotten when the device is saved", "behaviour")
def pending_lost() -> None:
    def forgetful(real: Any) -> Any:  # Any: as above
        def save(self: Any) -> Any:  # Any: as above
            saved = real(self)
            return interrupts.InterruptState(saved.levels, 0, saved.table)

        return save

    replace(interrupts.Interrupts, "save", forgetful)


@fault("the INTx pin stays up when it is disabled", "behaviour")
def intx_not_disabled() -> None:
    replace(config.ConfigSpace, "intx_disabled", lambda _real: property(lambda _self: False))


# --- jobs, resets, identity -------------------------------------------------------------------------------------


@fault("the busy bit stays when the job has ended", "behaviour")
def busy_stays() -> None:
    replace(device, "_set_busy", lambda real: lambda unit, work, up: real(unit, work, up=True) if up else None)


@fault("more of a job than its limit are under way", "behaviour")
def limit_ignored() -> None:
    def started(self: Any, unit: Any, job: Any, work: Any) -> bool:  # Any: as above
        self.begin(unit, job, work)
        return True

    replace(device.Device, "start", lambda _real: started)


@fault("a reset leaves jobs under way", "behaviour")
def reset_leaves_jobs() -> None:
    replace(Jobs, "cancel_all", lambda _real: lambda _self: None)
    replace(device.Device, "_forget_jobs", lambda _real: lambda _self: None)


@fault("a reset forgets the last register", "behaviour")
def reset_forgets_register() -> None:
    def shorter(real: Any) -> Any:  # Any: as above
        def reset(self: Any, *, sticky: bool) -> None:  # Any: as above
            kept = list(self.values)
            real(self, sticky=sticky)
            self.values[-3:] = kept[-3:]

        return reset

    replace(space.RegisterSpace, "reset", shorter)


@fault("a reset that a guest asks for resets what is sticky", "behaviour")
def sticky_reset() -> None:
    replace(space.RegisterSpace, "reset", lambda real: lambda self, sticky: real(self, sticky=False))


@fault("a reset leaves what is Saved", "behaviour")
def saved_survives() -> None:
    def first_only(real: Any) -> Any:  # Any: as above
        def renew(self: Any, kind: Any) -> None:  # Any: as above
            if not any(unit._state.get(each._name) for unit in self.units.values() for each in unit._plan.state):
                real(self, kind)

        return renew

    replace(device.Device, "_renew", first_only)


@fault("the identity can be written", "behaviour")
def identity_writable() -> None:
    def open_up(real: Any) -> Any:  # Any: as above
        def kept(self: Any, image: Any) -> None:  # Any: as above
            opened = Image(image.values, b"\xff" * 4 + image.writable[4:], image.w1c, image.live)
            real(self, opened if len(image.values) >= 256 else image)

        return kept

    replace(MaskedBytes, "__init__", open_up)


# --- accounts ---------------------------------------------------------------------------------------------------


@fault("a pool is not returned", "accounts")
def pool_not_returned() -> None:
    replace(pools.Accounts, "give_back", lambda _real: lambda _self, _type: None)


@fault("a pool is not taken", "accounts")
def pool_not_taken() -> None:
    replace(pools.Accounts, "take", lambda _real: lambda _self, _type: None)


@fault("a create that fails keeps what it took", "accounts")
def create_keeps() -> None:
    def create(self: Any, mdev: Any) -> Any:  # Any: as above
        self._accounts.take(mdev.type.name)
        return vars(parent)["Device"](self.function, self.types[mdev.type.name], mdev.uuid)

    replace(parent.Parent, "create", lambda _real: create)


@fault("a homogeneous pool is given to two types", "accounts")
def homogeneous_ignored() -> None:
    replace(pools.Accounts, "_is_others", lambda _real: lambda _self, _pool, _type: False)


if __name__ == "__main__":
    for name, each in FAULTS.items():
        print(f"{name:26} {each.check:10} {each.what}")

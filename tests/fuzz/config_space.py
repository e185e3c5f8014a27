"""Target: config space, MSI and MSI-X: reads and writes of any size, BAR sizing, masks, levels, saved states.

After each action the bytes are those of the model (`config_model`) but for what only the device moves, and the
interrupts are where they must be: nothing is pending that could be sent, no rise and no event is lost.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fuzz.choices import Choices
from fuzz.config_model import ID, SHAPES, Model, Shape
from fuzz.target import Finding, Target, expect
from mdev_user.errors import GuestError, OutOfRange
from mdev_user.pci.config import ConfigChange, ConfigSpace, ConfigState, StatusError
from mdev_user.pci.interrupts import InterruptKind, Interrupts, InterruptState

MOST_ACTIONS = 40
_OFFSETS = (4, 6, 0x0C, 0x10, 0x14, 0x18, 0x1C, 0x20, 0x24, 0x34, 0x3C, *range(0x40, 0x80, 2), 0xFC, 0xFF, 0xFFE)
_DATA = (0, 0xFFFF_FFFF, 4, 0x407, 0x8000, 0xC000, 0x4000, 1, 0x21, 0x71, 2, 3, 0xFEE0_0000)
_KINDS = tuple(InterruptKind)


class Function:
    """One function in use, and its model."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.space = ConfigSpace(ID, shape.bars, shape.capabilities, interrupt_pin=shape.pin, size=shape.size)
        self.model = Model(shape, self.space.read(0, shape.size))
        self.pin = False
        self.sent: Counter[tuple[InterruptKind, int]] = Counter()
        self.heard: set[tuple[InterruptKind, int]] = set()
        self.levels: set[int] = set()
        self.interrupts = Interrupts(self.space, self._drive, self._send)

    def _drive(self, level: bool) -> None:
        expect(level is not self.pin, "the pin is driven to where it is")
        self.pin = level

    def _send(self, kind: InterruptKind, message: int) -> bool:
        count = self.interrupts.counts[kind]
        expect(0 <= message < count, f"message {message} of {kind.name}, which has {count}")
        expect(self._unmasked(kind, message), f"message {message} of {kind.name} was sent, which is masked")
        if (kind, message) not in self.heard:
            return False
        self.sent[kind, message] += 1
        return True

    # --- what must hold ---------------------------------------------------------------------------------------

    def check(self) -> None:
        space, interrupts = self.space, self.interrupts
        kind = InterruptKind.MSIX if space.msix_enabled else InterruptKind.MSI if space.msi_enabled else None
        expect(interrupts.kind is (kind or InterruptKind.INTX), f"{interrupts.kind} where the registers say {kind}")
        asserted = bool(self.levels) and kind is None and self.shape.pin != 0
        expect(space.interrupt_status is asserted, "the status bit is not the levels'")
        expect(self.pin is (asserted and not space.intx_disabled), "the pin is not the levels'")
        expect(interrupts.pin is self.pin, "the pin is not where it was driven")
        self._check_pending(kind)
        self._check_bytes()
        self._check_meaning()

    def _check_pending(self, kind: InterruptKind | None) -> None:
        pending = self.interrupts.pending
        if kind is None:
            expect(not pending, f"pending {pending:#x} with INTx")
            return
        for message in range(pending.bit_length()):
            if pending >> message & 1:
                ready = self._unmasked(kind, message) and (kind, message) in self.heard
                expect(not ready, f"message {message} is pending and nothing holds it")

    def _unmasked(self, kind: InterruptKind, message: int) -> bool:
        if not self.space.read(4, 1)[0] & 4:
            return False
        if kind is InterruptKind.MSI:
            return not self.space.msi_mask >> message & 1
        if self.space.msix_function_mask:
            return False
        table = self.interrupts.windows()[0]
        return not table.read(16 * message + 12, 1)[0] & 1

    def _check_meaning(self) -> None:
        """What the registers say, read by those who use them."""
        for index, bar in self.shape.bars.items():
            width = 8 if getattr(bar, "wide", False) else 4
            value = int.from_bytes(self.model.values[0x10 + 4 * index :][:width], "little")
            expect(self.space.bar_address(index) == value - value % bar.size, f"BAR {index} lies elsewhere")
        msi, msix = self.space.msi, self.space.msix
        expect((msi is None) is ("MSI" not in self.model.areas), "MSI is there or not")
        expect((msix is None) is ("MSIX" not in self.model.areas), "MSI-X is there or not")
        expect(msi is None or msi.enabled is self.space.msi_enabled, "MSI is enabled or not")
        expect(msi is None or msi.vectors <= self.interrupts.counts[InterruptKind.MSI], "more messages than there are")
        expect(msix is None or msix.enabled is self.space.msix_enabled, "MSI-X is enabled or not")

    def _check_bytes(self) -> None:
        """Also that the pending bits show what is pending: the model knows nothing of what only the device moves."""
        given, model = bytearray(self.space.read(0, self.shape.size)), bytearray(self.model.values)
        given[6] &= ~8
        model[6] &= ~8
        if "MSI" in self.model.areas:
            area = self.model.areas["MSI"]
            if self.space.msi is not None and given[area.start + 2 + 1] & 1:  # maskable: the last register is pending
                shown = int.from_bytes(given[area.stop - 4 : area.stop], "little")
                wanted = self.interrupts.pending if self.interrupts.kind is InterruptKind.MSI else 0
                expect(shown == wanted, f"MSI shows {shown:#x} pending, it is {wanted:#x}")
                given[area.stop - 4 : area.stop] = bytes(4)
        if given != model:
            at = next(at for at in range(self.shape.size) if given[at] != model[at])
            raise Finding(f"byte {at:#x} is {given[at]:#x}, expected {model[at]:#x}")
        windows = self.interrupts.windows()
        if windows:
            shown = int.from_bytes(windows[1].read(0, windows[1].size), "little")
            wanted = self.interrupts.pending if self.interrupts.kind is InterruptKind.MSIX else 0
            expect(shown == wanted, f"the pending bits are {shown:#x}, pending is {wanted:#x}")

    # --- actions ----------------------------------------------------------------------------------------------

    def write(self, offset: int, data: bytes) -> None:
        if offset + len(data) > self.shape.size:
            _refused(OutOfRange, lambda: self.space.write(offset, data))
            return
        change = self.space.write(offset, data)
        areas = self.model.write(offset, data)
        named = {each.name for each in ConfigChange if each.name and change & each}
        expect(named == areas, f"a write of {data.hex()} at {offset:#x} changed {areas}, told were {named}")
        self.interrupts.config_written(change)

    def read(self, offset: int, count: int) -> None:
        if offset + count > self.shape.size:
            _refused(OutOfRange, lambda: self.space.read(offset, count))
            return
        whole = self.space.read(0, self.shape.size)
        expect(self.space.read(offset, count) == whole[offset : offset + count], "a part is not of the whole")

    def size_bars(self) -> None:
        """As every system does it: all ones, read, write back."""
        for index, bar in self.shape.bars.items():
            at, width = 0x10 + 4 * index, 8 if getattr(bar, "wide", False) else 4
            before = self.space.read(at, width)
            self.write(at, b"\xff" * width)
            value = int.from_bytes(self.space.read(at, width), "little")
            flags = 3 if value & 1 else 15
            size = -(value & ~flags) & ((1 << 8 * width) - 1)
            expect(size == bar.size, f"BAR {index} says {size:#x} bytes, it has {bar.size:#x}")
            self.write(at, before)
            expect(self.space.read(at, width) == before, f"BAR {index} is not as it was")

    def enable(self, kind: InterruptKind, vector: int) -> None:
        """As a driver does: bus master, messages enabled, the vector heard and unmasked."""
        self.write(4, b"\x06\x00")
        if vector < self.interrupts.counts[kind]:
            self.listen(kind, vector)

    def mask(self, kind: InterruptKind, vector: int) -> None:
        """One vector, in the register or the table."""
        if kind is InterruptKind.MSIX and self.space.msix_layout is not None:
            self.table(16 * (vector % self.space.msix_layout.vectors) + 12, b"\1\0\0\0")
        elif "MSI" in self.model.areas:
            self.write(self.model.areas["MSI"].stop - 8, (1 << vector % 32).to_bytes(4, "little"))

    def repeat_level(self, vector: int) -> None:
        vector %= self.interrupts.vectors
        self._told(vector, lambda: self.interrupts.repeat_level(vector), counts=True)

    def raise_level(self, vector: int) -> None:
        vector %= self.interrupts.vectors
        rises = vector not in self.levels
        self.levels.add(vector)
        self._told(vector, lambda: self.interrupts.raise_level(vector), counts=rises)

    def lower_level(self, vector: int) -> None:
        vector %= self.interrupts.vectors
        self.levels.discard(vector)
        sent = self.sent.total()
        self.interrupts.lower_level(vector)
        expect(self.sent.total() == sent, "a level that fell sent a message")

    def fire(self, vector: int) -> None:
        vector %= self.interrupts.vectors
        self._told(vector, lambda: self.interrupts.fire(vector), counts=True)

    def _told(self, vector: int, act: Callable[[], None], *, counts: bool) -> None:
        """It is sent once, or pending; never both, never neither."""
        kind, before = self.interrupts.kind, self.sent.total()
        act()
        sent = self.sent.total() - before
        if not counts or kind is InterruptKind.INTX:
            expect(not sent, f"{sent} messages came of nothing")
            return
        message = vector if kind is InterruptKind.MSIX else vector % self.space.msi_vectors
        pending = self.interrupts.pending >> message & 1
        expect(sent + pending == 1, f"message {message}: sent {sent} times, pending {pending}")

    def listen(self, kind: InterruptKind, vector: int) -> None:
        """A client arms a vector with an eventfd, or asks for one that there is none of."""
        count = self.interrupts.counts[kind]
        if vector >= count:
            _refused(GuestError, lambda: self.interrupts.arm(kind, [vector]))
            return
        self.heard.add((kind, vector))
        self.interrupts.arm(kind, [vector])
        self._adopt()

    def forget(self, kind: InterruptKind, vector: int) -> None:
        self.heard.discard((kind, vector))

    def _adopt(self) -> None:
        """The software below the user has written the control registers: the model takes them over."""
        for name in ("MSI", "MSIX"):
            if name in self.model.areas:
                at = self.model.areas[name].start + 2
                given = self.space.read(at, 2)
                for byte, old, mask in zip(given, self.model.values[at:], self.model.writable[at:], strict=False):
                    expect(not (byte ^ old) & ~mask, f"{name} control: a read-only bit moved")
                self.model.values[at : at + 2] = given

    def table(self, offset: int, data: bytes) -> None:
        windows = self.interrupts.windows()
        if not windows:
            return
        window = windows[offset & 1]
        if offset + len(data) > window.size and not offset & 1:
            _refused(OutOfRange, lambda: window.write(offset, data))
            return
        window.write(offset, data)
        if offset + len(data) > window.size:
            _refused(OutOfRange, lambda: window.read(offset, len(data)))

    def latch(self, error: StatusError) -> None:
        self.space.latch(error)
        status = int.from_bytes(self.model.values[6:8], "little") | error
        self.model.values[6:8] = status.to_bytes(2, "little")

    def reset(self) -> None:
        self.space.reset()
        self.interrupts.reset()
        self.levels.clear()
        self.model = Model(self.shape, self.space.read(0, self.shape.size))

    def move(self) -> None:
        """Saved, and loaded into another one: nothing can be told apart."""
        config, interrupts = self.space.save(), self.interrupts.save()
        other = Function(self.shape)
        other.space.load(config)
        other.interrupts.load(interrupts)
        expect(other.space.save() == config, "a loaded config space is another one")
        expect(other.interrupts.save() == interrupts, "loaded interrupts are others")
        self.space, self.interrupts = other.space, other.interrupts
        other.heard, other.sent, other.levels = self.heard, self.sent, self.levels
        self.interrupts._drive_pin, self.interrupts._send_message = self._drive, self._send
        expect(other.pin is self.pin, "the pin is another one")
        self.interrupts.resume()

    def load(self, at: int, byte: int, levels: int, pending: int) -> None:
        """A state that a stranger has touched: taken as it is, or refused and nothing has changed."""
        values = bytearray(self.space.save().values)
        values[at % len(values)] ^= byte
        before = self.space.save()
        try:
            self.space.load(ConfigState(bytes(values)))
        except GuestError:
            expect(self.space.save() == before, "a refused state has changed something")
        else:
            self._check_moved(before.values, bytes(values))
            self.space.load(before)
        state = self.interrupts.save()
        try:
            self.interrupts.load(InterruptState(levels, pending, state.table))
        except GuestError:
            expect(self.interrupts.save() == state, "a refused state has changed something")
        else:
            self.levels = {bit for bit in range(levels.bit_length()) if levels >> bit & 1}
            self.interrupts.resume()

    def _check_moved(self, before: bytes, after: bytes) -> None:
        """Only bits that a guest or the device can change may be other ones."""
        model = self.model
        for at, (old, new) in enumerate(zip(before, after, strict=True)):
            fixed = (old ^ new) & ~(model.writable[at] | model.w1c[at])
            live = 8 if at == 6 else 0xFF if at in model.areas.get("MSI", range(0))[-4:] else 0
            expect(not fixed & ~live, f"a load moved read-only bits {fixed:#x} of byte {at:#x}")
        expect(after[model.power] & 3 not in {1, 2} or not model.power, "a load made power state D1 or D2")


def _refused(kind: type[GuestError], act: Callable[[], object]) -> None:
    try:
        act()
    except kind:
        return
    raise Finding(f"expected {kind.__name__}")


@dataclass(frozen=True)
class Drawn:
    """What an action may need, drawn beforehand."""

    offset: int
    data: bytes
    value: int
    vector: int
    levels: int

    @property
    def kind(self) -> InterruptKind:
        return _KINDS[self.vector % len(_KINDS)]


def _write(function: Function, drawn: Drawn) -> None:
    function.write(drawn.offset, drawn.data)


def _raise_level(function: Function, drawn: Drawn) -> None:
    function.raise_level(drawn.vector)


_ACTIONS: tuple[Callable[[Function, Drawn], None], ...] = (
    _write,
    _write,
    _write,
    _write,
    lambda function, drawn: function.read(drawn.offset, len(drawn.data)),
    lambda function, _drawn: function.size_bars(),
    _raise_level,
    _raise_level,
    lambda function, drawn: function.lower_level(drawn.vector),
    lambda function, drawn: function.fire(drawn.vector),
    lambda function, drawn: function.listen(drawn.kind, drawn.vector // 3 % 80),
    lambda function, drawn: function.forget(drawn.kind, drawn.vector // 3),
    lambda function, drawn: function.table(drawn.vector * 4 + 12 if len(drawn.data) == 4 else drawn.offset, drawn.data),
    lambda function, _drawn: function.move(),
    lambda function, drawn: function.load(drawn.offset, drawn.vector, drawn.value & 0xFF, drawn.levels),
    lambda function, drawn: _rare(drawn.vector, function),
    lambda function, drawn: function.enable(drawn.kind, drawn.vector // 3 % 80),
    lambda function, drawn: function.enable(InterruptKind.MSIX, drawn.vector % 8),
    lambda function, drawn: function.mask(drawn.kind, drawn.vector // 3),
    lambda function, drawn: function.repeat_level(drawn.vector),
)


_FIRE, _LISTEN, _FORGET, _LOAD, _ENABLE = 9, 10, 11, 14, 16


def _act(choices: Choices, function: Function) -> None:
    offset = choices.one_of(_OFFSETS) if choices.byte() % 4 else choices.number(2) % (function.shape.size + 4)
    size, value = choices.one_of((4, 2, 1, 8, 3, 0, 64)), choices.one_of((*_DATA, choices.number(4)))
    data = (value.to_bytes(4, "little") * 16)[:size]
    vector, action = choices.byte(), choices.one_of(_ACTIONS)
    action(function, Drawn(offset, data, value, vector, choices.byte()))


def _rare(which: int, function: Function) -> None:
    if which & 1:
        function.reset()
    else:
        function.latch(list(StatusError)[which // 2 % len(StatusError)])


def one(data: bytes) -> None:
    choices = Choices(data)
    function = Function(SHAPES[choices.below(len(SHAPES))])
    function.check()
    for _ in range(MOST_ACTIONS):
        if not choices.left:
            return
        _act(choices, function)
        function.check()


def seeds() -> Sequence[bytes]:
    """Every action at the command register and at the first capability, each once more after vectors were enabled."""
    actions = [
        _action(offset, value, vector, action)
        for action in range(len(_ACTIONS))
        for offset in (0, _OFFSETS.index(0x40))
        for value, vector in ((1, 0), (4, 3))
    ]
    enabled = _action(0, 0, 0, _ENABLE)
    seeds = [bytes((shape,)) + enabled + each for shape in range(len(SHAPES)) for each in actions]
    power = [Model(shape, Function(shape).space.read(0, shape.size)).power for shape in SHAPES]
    loads = [(shape, _OFFSETS.index(at)) for shape, at in enumerate(power) if at]
    seeds += [bytes((shape,)) + _action(at, 0, 1, _LOAD) for shape, at in loads]
    # A message that nobody hears, then somebody does, and one more.
    told = [_action(0, 0, 0, action) for action in (_ENABLE, _FORGET, _FIRE, _LISTEN, _FIRE)]
    return [*seeds, *(bytes((shape,)) + b"".join(told) for shape in range(len(SHAPES)))]


def _action(offset: int, value: int, vector: int, action: int) -> bytes:
    """As `_act` reads it; ``offset`` and ``value`` are numbers of those there are."""
    return bytes((1, offset, 0, 0, 0, 0, 0, value, vector, action, 0))


TARGET = Target(
    "config",
    "config space, MSI and MSI-X, against a model",
    one,
    seeds,
    (
        "mdev_user.pci.config",
        "mdev_user.pci.masked",
        "mdev_user.pci.interrupts",
        "mdev_user.pci.msix",
        "mdev_user.pci.capabilities",
        "mdev_user.pci.layout",
        "mdev_user.pci.bars",
    ),
    longest=512,
)

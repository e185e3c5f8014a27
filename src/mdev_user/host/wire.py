"""What the front and a host say to each other: typed calls and their answers, in MessagePack.

They exchange only values. Each message is one packet of a SOCK_SEQPACKET pair; a call carries a number, and its
answer the same number, so that a call that takes long (a remove that waits for a guest) delays no other.
"""

from uuid import UUID

from msgspec import Struct, field

from mdev_user.host.purpose import Purpose
from mdev_user.mdev.types import MdevAttribute, MdevType
from mdev_user.pci.identity import PciId
from mdev_user.vfio.inspection import NamedValue, TraceLine, Unmodelled

LARGEST = 128 * 1024
"""Bytes of a packet; Linux sends none larger than the socket's buffer, 208 KiB by default.

The largest things that travel are a parent's type list and an attribute's page.
"""


class ParentDescription(Struct, frozen=True, tag_field="answer"):
    """What the front needs to register a parent that lives in a host."""

    driver_name: str
    types: list[MdevType]
    max_instances: int | None
    attributes: list[MdevAttribute]
    parent_attributes: list[MdevAttribute] = []
    identity: PciId | None = None


class Load(Struct, frozen=True, tag_field="call"):
    """Make a parent and keep it under ``name``. Answer: ParentDescription."""

    name: str
    driver: str
    options: dict[str, str]
    busy_poll: int = 0
    """Microseconds for which its mdevs' threads look for the next access before they sleep."""


class Unload(Struct, frozen=True, tag_field="call"):
    """Forget a parent; its mdevs are gone already."""

    parent: str


class Reload(Struct, frozen=True, tag_field="call"):
    """Let a parent go on with what is in its driver's file now. Answer: str, a line for each mdev that was reset."""

    parent: str


class Create(Struct, frozen=True, tag_field="call"):
    """LifecycleOps.create."""

    parent: str
    type: str
    uuid: UUID


class Remove(Struct, frozen=True, tag_field="call"):
    """LifecycleOps.remove."""

    uuid: UUID


class Lend(Struct, frozen=True, tag_field="call"):
    """A listening socket for the mdev when it is probed next; its file descriptor comes with the packet."""

    uuid: UUID


class Probe(Struct, frozen=True, tag_field="call"):
    """Have vfio_mdev make a VFIO device of an mdev; its socket is bound when the answer comes."""

    uuid: UUID


class Unprobe(Struct, frozen=True, tag_field="call"):
    """Have vfio_mdev let go of an mdev; answered when nobody uses it any more."""

    uuid: UUID


class GetAvailable(Struct, frozen=True, tag_field="call"):
    """LifecycleOps.get_available. Answer: int."""

    parent: str
    type: str


class Show(Struct, frozen=True, tag_field="call"):
    """LifecycleOps.show. Answer: str."""

    uuid: UUID
    attribute: MdevAttribute


class Store(Struct, frozen=True, tag_field="call"):
    """LifecycleOps.store."""

    uuid: UUID
    attribute: MdevAttribute
    data: bytes


class ShowParent(Struct, frozen=True, tag_field="call"):
    """LifecycleOps.show_parent. Answer: str."""

    parent: str
    attribute: MdevAttribute


class StoreParent(Struct, frozen=True, tag_field="call"):
    """LifecycleOps.store_parent."""

    parent: str
    attribute: MdevAttribute
    data: bytes


class Inspect(Struct, frozen=True, tag_field="call"):
    """How an mdev is used. Answer: Inspection."""

    uuid: UUID


class Disconnect(Struct, frozen=True, tag_field="call"):
    """End the connection of an mdev's user."""

    uuid: UUID


class BeginMove(Struct, frozen=True, tag_field="call"):
    """Make the socket at which an mdev's state is moved, for one mover. Answer: str, its path."""

    uuid: UUID
    purpose: Purpose


class HandOver(Struct, frozen=True, tag_field="call"):
    """What a mover saved of an mdev, and has it stopped for, is at home in ``place``: end all use here, for good."""

    uuid: UUID
    place: str


class ListValues(Struct, frozen=True, tag_field="call"):
    """DeviceOps.inspect. Answer: `Values`, in as many packets as it takes."""

    uuid: UUID


class ListUnmodelled(Struct, frozen=True, tag_field="call"):
    """What the guest accessed and nobody declared. Answer: `UnmodelledAnswer`."""

    uuid: UUID


class CopyPicture(Struct, frozen=True, tag_field="call"):
    """Copy what is on a head into the file whose descriptor comes with the packet. Answer: `CopiedPicture`."""

    uuid: UUID
    head: int
    file: int
    """A number of the front's."""


class BeginTrace(Struct, frozen=True, tag_field="call"):
    """Keep what happens to an mdev for ``reader``, a number of the front's."""

    uuid: UUID
    reader: int


class ReadTrace(Struct, frozen=True, tag_field="call"):
    """Answer: `TraceLines`, none when nothing happened for ``seconds``."""

    uuid: UUID
    reader: int
    seconds: float


class EndTrace(Struct, frozen=True, tag_field="call"):
    """The reader is gone."""

    uuid: UUID
    reader: int


class Inspection(Struct, frozen=True, tag_field="answer"):
    """``pid`` is None while nobody uses the mdev."""

    pid: int | None
    uid: int
    program: str
    unshared_memory: int
    last_disconnect: str
    counters: dict[str, int | str]
    parked: bool = False
    """Whether it was loaded and waits for its user."""
    last_move: str = ""
    """Why the last mover was refused something, or sent away."""
    unmigratable: str = ""
    """Why it cannot be saved at the moment; empty also when nobody has it open, or its driver is stuck."""


class Values(Struct, frozen=True, tag_field="answer"):
    """Some of a device's values, and whether somebody has it open."""

    opened: bool
    values: list[NamedValue]


class UnmodelledAnswer(Struct, frozen=True, tag_field="answer"):
    """Of one mdev."""

    unmodelled: Unmodelled


class CopiedImage(Struct, frozen=True):
    """Where the pixels lie in the file, and the words of `vfio.screens.Picture`."""

    at: int
    width: int
    height: int
    stride: int
    format: int


class CopiedPointer(Struct, frozen=True):
    """The words of `vfio.screens.Pointer`."""

    image: CopiedImage
    x: int
    y: int
    hot_x: int
    hot_y: int


class CopiedPicture(Struct, frozen=True, tag_field="answer"):
    """What is on a head."""

    image: CopiedImage
    pointer: CopiedPointer | None = None


class TraceLines(Struct, frozen=True, tag_field="answer"):
    """What a reader has not been given yet."""

    lines: list[TraceLine]


Call = (
    Load | Unload | Reload | Create | Remove | Lend | Probe | Unprobe | GetAvailable | Show | Store | ShowParent
    | StoreParent | Inspect | Disconnect | BeginMove | HandOver | ListValues | ListUnmodelled | BeginTrace | ReadTrace
    | EndTrace | CopyPicture
)  # fmt: skip
Value = ParentDescription | Inspection | Values | UnmodelledAnswer | TraceLines | CopiedPicture | int | str | None
"""What a call is answered with."""


class Packet(Struct, frozen=True):
    """Front to host."""

    number: int
    call: Call


class Answer(Struct, frozen=True):
    """Host to front. ``errno`` 0 is success; otherwise ``message`` says what was wrong."""

    number: int
    value: Value = None
    errno: int = 0
    message: str = ""
    kind: str = field(default="")
    """The class of the error, for a log."""
    more: bool = False
    """Whether another packet with the rest of the answer follows."""

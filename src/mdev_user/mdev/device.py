"""An mdev: its identity, and where in its life it stands."""

from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from threading import Lock
from typing import TYPE_CHECKING
from uuid import UUID

from mdev_user.mdev.types import MdevType

if TYPE_CHECKING:
    from mdev_user.mdev.parent import MdevParent


class State(Enum):
    """Linux's ``active`` flag has two meanings when false; here they are two states."""

    CREATING = "creating"
    ACTIVE = "active"
    REMOVING = "removing"


@dataclass(frozen=True, slots=True)
class Binding:
    """Under which driver's name an mdev is bound, and the number of its iommu group, which is also N of vfioN.

    (Linux numbers the two apart; they come and go together, lowest free first, and so are the same.)
    """

    driver: str
    number: int


class Mdev:
    """One mediated device. Identity for everybody; state, binding and teardown are the bus's."""

    __slots__ = ("binding", "drvdata", "lock", "name", "parent", "state", "teardown", "type", "uuid")

    def __init__(self, uuid: UUID, parent: "MdevParent", mdev_type: MdevType) -> None:
        self.uuid = uuid
        self.name = str(uuid)
        """As everybody but its creator writes it: in lower case."""
        self.parent = parent
        self.type = mdev_type
        self.drvdata: object = None
        self.binding: Binding | None = None
        self.state = State.CREATING
        self.lock = Lock()
        """Orders bind and unbind, as the kernel's device lock does."""
        self.teardown = ExitStack()
        """What undoes its creation, step by step in reverse: a remove and a failed create are the same thing."""

    @property
    def type_id(self) -> str:
        return self.parent.type_id(self.type)

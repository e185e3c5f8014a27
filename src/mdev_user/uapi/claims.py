"""Which mdevs are open, and how: by their group or as a cdev, never both. Used under the tables of the supervisor."""

from enum import Enum
from errno import EBUSY, EINVAL
from uuid import UUID

from mdev_user.uapi.files import refused


class By(Enum):
    """How an mdev is open."""

    GROUP = "group"
    CDEV = "cdev"


class Claims:
    """The open mdevs of one supervisor's programs; those of other programs the daemon refuses."""

    def __init__(self) -> None:
        self._open: dict[UUID, By] = {}

    def open_group(self, mdev: UUID) -> None:
        """EBUSY while the group is open, or the mdev is bound to an iommufd (vfio_group_fops_open)."""
        if mdev in self._open:
            raise refused(EBUSY)
        self._open[mdev] = By.GROUP

    def check(self, mdev: UUID) -> None:
        """As `bind`, but nothing is claimed yet."""
        known = self._open.get(mdev)
        if known is not None:
            raise refused(EBUSY if known is By.GROUP else EINVAL)

    def bind(self, mdev: UUID) -> None:
        """EBUSY while the group is open, EINVAL for an mdev that is bound already (vfio_df_ioctl_bind_iommufd)."""
        self.check(mdev)
        self._open[mdev] = By.CDEV

    def close(self, mdev: UUID) -> None:
        """It is neither any more."""
        self._open.pop(mdev, None)

"""A whole host in this process: the bus, a parent, and its mdevs' vfio-user sockets, without FUSE or a daemon.

```python
with LocalHost() as host:
    parent = host.bus.register_parent("mtty", Mtty())
    mdev = host.create(parent, "mtty-1")
    with host.client(mdev) as guest:
        guest.region_read(...)
```
"""

import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID, uuid4

from mdev_user.host import SOCKET_NAME
from mdev_user.host.endpoint import Endpoint, Endpoints
from mdev_user.mdev.bus import Bus
from mdev_user.mdev.device import Mdev
from mdev_user.mdev.parent import MdevParent
from mdev_user.vfio_mdev.driver import VfioMdev
from mdev_user.vfio_user.client import Client


class LocalHost:
    """A context manager; its end disconnects everybody and leaves nothing behind."""

    def __init__(self) -> None:
        # Not the test's own folder: a socket's path has at most 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="mdev-"))
        self.endpoints = Endpoints(self._folder)
        self.bus = Bus()
        self.bus.register_driver(VfioMdev(self.endpoints))

    def create(self, parent: MdevParent, type_id: str, uuid: UUID | None = None) -> Mdev:
        return self.bus.create(parent, type_id, uuid or uuid4())

    def socket(self, mdev: Mdev) -> Path:
        return self._folder / str(mdev.uuid) / SOCKET_NAME

    def client(self, mdev: Mdev) -> Client:
        """A connected and negotiated vfio-user client of the mdev."""
        return Client(self.socket(mdev))

    def endpoint(self, mdev: Mdev) -> Endpoint:
        return self.endpoints.endpoint(mdev.uuid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        self.endpoints.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

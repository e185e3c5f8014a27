"""Copies what is on the heads of this host's mdevs into files that the front has given.

To copy is all that is done here, and it is done without the interpreter's lock: whoever wants a picture encodes it, so
that no guest waits for that. The mdev's own guest waits for the copy.
"""

import os
from threading import Lock

from mdev_user.errors import NotReady
from mdev_user.host.endpoint import Endpoints
from mdev_user.host.steps import step_within
from mdev_user.host.wire import CopiedImage, CopiedPicture, CopiedPointer, CopyPicture
from mdev_user.units import PAGE, align_up
from mdev_user.vfio.screens import Picture


class Pictures:
    """The files that came along with calls, each until its call is done."""

    def __init__(self) -> None:
        self._files: dict[int, int] = {}
        self._guard = Lock()

    def give(self, number: int, fd: int) -> None:
        """The file of this number, for the `CopyPicture` that names it. Owns it from here on."""
        with self._guard:
            unused, self._files[number] = self._files.get(number), fd
        if unused is not None:
            os.close(unused)

    def copy(self, endpoints: Endpoints, call: CopyPicture) -> CopiedPicture:
        """Errors as of `VfioDevice.picture`; NotReady where nothing is shown; OSError as of writing to the file."""
        with self._guard:
            fd = self._files.pop(call.file)
        try:
            endpoint = endpoints.endpoint(call.uuid)
            with step_within(endpoint.lock, endpoint.device.counters, "screenshot"):
                picture = endpoint.device.picture(call.head)
                if picture is None:
                    raise NotReady(f"head {call.head} shows nothing: it is blanked, or its guest has set no mode yet")
                return _copied(fd, picture)
        finally:
            os.close(fd)


def _copied(fd: int, picture: Picture) -> CopiedPicture:
    """The pointer's image lies behind the head's."""
    image, pointer = _image(fd, picture, 0), picture.pointer
    if pointer is None:
        return CopiedPicture(image)
    behind = align_up(picture.size, PAGE)
    return CopiedPicture(
        image, CopiedPointer(_image(fd, pointer.image, behind), pointer.x, pointer.y, pointer.hot_x, pointer.hot_y)
    )


def _image(fd: int, picture: Picture, at: int) -> CopiedImage:
    left, to = memoryview(picture.pixels)[: picture.size], at
    while left:
        written = os.pwrite(fd, left, to)
        left, to = left[written:], to + written
    return CopiedImage(at, picture.width, picture.height, picture.stride, picture.format)

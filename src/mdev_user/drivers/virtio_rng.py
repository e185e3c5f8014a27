"""virtio-rng: an entropy source (virtio 1.2, section 5.4) that gives a guest the host's random numbers.

Every Linux has the driver of it. A type says how many bytes answer one request.
"""

import os
from dataclasses import dataclass

from mdev_user.driver import Chain, Parent, Pool, Profile, Virtqueue, VirtioFunction


@dataclass(frozen=True)
class Share(Profile):
    chunk: int
    """Bytes for one request."""


class Rng(VirtioFunction[Share]):
    virtio_id = 4
    requests = Virtqueue(size=64)

    @requests.served
    async def fill(self, chain: Chain) -> None:
        await chain.write(os.urandom(min(chain.writable, self.profile.chunk)))


class Card(Parent[Share]):
    function = Rng
    driver_name = "virtio-rng"
    chunk = Pool(4096)
    types = {"small": Share(chunk=64), "large": Share(chunk=1024)}

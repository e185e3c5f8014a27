"""The kernel of an unpacked Debian package, as a guest boots it soonest."""

import subprocess
from pathlib import Path

from mdev_user.guests import kernel_image
from mdev_user.guests.archive import RigError
from mdev_user.guests.foreign import LIBRARIES, interpreter

_UNPACK_SECONDS = 60


def install_kernel(unpacked: Path, folder: Path) -> str:
    """The name in ``folder`` of the kernel below ``unpacked``, where the package ``zstd`` is to be as well.

    It is unpacked here, once, which each emulated boot would spend two seconds on.
    """
    image = next((unpacked / "boot").glob("vmlinuz-*")).read_bytes()
    packed = kernel_image.payload(image)
    if not packed.startswith(kernel_image.ZSTD_MAGIC):  # another packer: QEMU boots the bzImage as well
        (folder / "vmlinuz").write_bytes(image)
        return "vmlinuz"
    (folder / "vmlinux").write_bytes(_unpack_zstd(unpacked, packed))
    return "vmlinux"


def _unpack_zstd(unpacked: Path, packed: bytes) -> bytes:
    # Python has zstd from 3.14 on; until then the archive's own program, run like its QEMU
    command = interpreter(unpacked / LIBRARIES)
    done = subprocess.run(
        [*command, str(unpacked / "usr/bin/zstd"), "-dcq"],
        input=packed,
        capture_output=True,
        timeout=_UNPACK_SECONDS,
        check=False,
    )
    if done.returncode:
        message = f"the guest kernel cannot be unpacked: {done.stderr.decode(errors='replace').strip()}"
        raise RigError(message)
    return done.stdout

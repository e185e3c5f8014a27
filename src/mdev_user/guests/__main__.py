"""``python -m mdev_user.guests``: set up what the tests take from Debian's archive if need be, and say what it is.

``python -m mdev_user.guests rig`` sets up the guest rig only, ``... management`` the root with libvirt and mdevctl,
``... display`` the kernel with drivers for displays, ``... mesa`` a disk with Debian's Mesa, ``... plain-qemu`` a QEMU
without vfio-user.
"""

import argparse
import sys
from collections.abc import Callable, Iterator

from mdev_user.guests.archive import RigError
from mdev_user.guests.cached import Progress
from mdev_user.guests.display_kernel import build_display_kernel
from mdev_user.guests.management import build_management_root
from mdev_user.guests.mesa import build_mesa_image
from mdev_user.guests.plain_qemu import build_plain_qemu
from mdev_user.guests.rig import build_rig


def _rig(progress: Progress) -> Iterator[str]:
    rig = build_rig(progress)
    yield f"qemu    {rig.qemu_version}  {' '.join(rig.qemu)}"
    yield f"kernel  {rig.kernel_release}  {rig.kernel}"
    yield f"busybox {rig.busybox}"


def _management(progress: Progress) -> Iterator[str]:
    root = build_management_root(progress)
    yield f"libvirt {root.libvirt_version}, mdevctl {root.mdevctl_version}  {root.path}"


def _display(progress: Progress) -> Iterator[str]:
    kernel = build_display_kernel(progress)
    yield f"display {kernel.release}  {kernel.image}"


def _mesa(progress: Progress) -> Iterator[str]:
    image = build_mesa_image(progress)
    yield f"mesa    {image.version}  {image.path}"


def _plain_qemu(progress: Progress) -> Iterator[str]:
    qemu = build_plain_qemu(progress)
    yield f"plain   {qemu.version}  {' '.join(qemu.command)}"


_FOLDERS: dict[str, Callable[[Progress], Iterator[str]]] = {
    "rig": _rig,
    "management": _management,
    "display": _display,
    "mesa": _mesa,
    "plain-qemu": _plain_qemu,
}


def main() -> int:
    """0 with the parts on stdout, 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m mdev_user.guests", description=__doc__)
    parser.add_argument("folder", nargs="*", default=list(_FOLDERS), help=f"of {', '.join(_FOLDERS)}; all by default")
    wanted = parser.parse_args().folder
    unknown = [each for each in wanted if each not in _FOLDERS]
    if unknown:
        parser.error(f"expected {' or '.join(_FOLDERS)}, given {unknown[0]}")
    for each in wanted:
        try:
            for line in _FOLDERS[each](lambda line: print(line, file=sys.stderr, flush=True)):  # noqa: T201 # a command
                print(line)  # noqa: T201 # a command
        except RigError as error:
            print(f"no {each}: {error}", file=sys.stderr)  # noqa: T201 # a command
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

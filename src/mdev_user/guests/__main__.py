"""``python -m mdev_user.guests``: set up the guest rig if need be, and say what it is."""

import sys

from mdev_user.guests.archive import RigError
from mdev_user.guests.rig import build_rig


def main() -> int:
    """0 with the rig's parts on stdout, 1 with the reason on stderr."""
    try:
        rig = build_rig(lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201 # a command
    except RigError as error:
        print(f"no guest rig: {error}", file=sys.stderr)  # noqa: T201 # a command
        return 1
    print(f"qemu    {rig.qemu_version}  {' '.join(rig.qemu)}")  # noqa: T201 # a command
    print(f"kernel  {rig.kernel_release}  {rig.kernel}")  # noqa: T201 # a command
    print(f"busybox {rig.busybox}")  # noqa: T201 # a command
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m mdev_user`` is the command ``mdev-user``."""

from mdev_user.cli import main

main()

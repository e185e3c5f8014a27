"""mdev-user: the Linux mediated-device system in user space."""

__version__ = "0.1.0"

# The part of mfusepy 3 that mdev_user.sysfs.mount uses: the package has no types of its own.
import ctypes

fuse_version_major: int
fuse_version_minor: int

class c_timespec(ctypes.Structure):
    def __init__(self, tv_sec: int = ..., tv_nsec: int = ...) -> None: ...

class FUSE:
    """Mounts, serves until unmounted, and returns; RuntimeError(libfuse's exit code) when it could not mount."""

    def __init__(self, operations: object, mountpoint: str, raw_fi: bool = ..., **options: str | int) -> None: ...

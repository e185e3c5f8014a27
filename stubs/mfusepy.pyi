# The part of mfusepy 3 that mdev_user.sysfs.mount uses: the package has no types of its own.
import ctypes

fuse_version_major: int
fuse_version_minor: int

class c_timespec(ctypes.Structure):  # noqa: N801 - its name there
    def __init__(self, tv_sec: int = ..., tv_nsec: int = ...) -> None: ...

# Mounts, serves until unmounted, and returns; RuntimeError(the exit code of libfuse) when it could not mount.
class FUSE:
    def __init__(self, operations: object, mountpoint: str, raw_fi: bool = ..., **options: str | int) -> None: ...

# uid, gid and pid of who asked for what the calling thread is doing.
def fuse_get_context() -> tuple[int, int, int]: ...

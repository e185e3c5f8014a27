from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TypeAlias

from mdev_user.vfio.plain import PlainRead, PlainWrite
from mdev_user.vfio_user.transport import Ancillary

class StepLock:
    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...
    def locked(self) -> bool: ...
    def is_wanted(self) -> bool: ...
    def __enter__(self) -> bool: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

class PlainTable:
    def __init__(self, lock: StepLock) -> None: ...
    @property
    def lock(self) -> StepLock: ...
    @property
    def reads(self) -> int: ...
    @property
    def writes(self) -> int: ...
    def fill(self, reads: Iterable[PlainRead], writes: Iterable[PlainWrite]) -> None: ...
    def clear(self) -> None: ...

def serve(
    fd: int,
    buffer: bytearray,
    table: PlainTable,
    read: Callable[[int, int, int, int], bytes],
    write: Callable[[int, int, int, bytes], bytes],
    leave: Callable[[bytes, int], None],
    stuck: bytearray,
    busy_poll: int,
    listener: int,
    memory: int,
    write_trapped: Callable[[int, int, int, bytes], bytes],
) -> tuple[int, Ancillary, int] | None: ...
def scan_lines(
    pixels: bytes | bytearray | memoryview,
    stride: int,
    width: int,
    height: int,
    order: tuple[int, int, int],
    lines: bytearray | memoryview,
    lines_per_block: int,
    gap: int,
    /,
) -> int: ...
def within(entries: bytes, first: int, skipped: int, size: int, base: int, length: int, /) -> int: ...
def gather(
    memory: memoryview,
    low: int,
    high: int,
    base: int,
    entries: bytes,
    first: int,
    skipped: int,
    size: int,
    into: memoryview,
    /,
) -> int: ...
def scatter(
    memory: memoryview,
    low: int,
    high: int,
    base: int,
    entries: bytes,
    first: int,
    skipped: int,
    size: int,
    data: memoryview,
    /,
) -> int: ...

class Line:
    def __init__(
        self, fd: int, lock: StepLock, carried: bytearray, readable: Sequence[int], writable: Sequence[int], /
    ) -> None: ...
    def close(self) -> None: ...
    def trap(self) -> None: ...
    def fail(self, listener: int, errno: int, /) -> None: ...

Notified: TypeAlias = tuple[int, int, int, tuple[int, int, int, int, int, int]]
Begun: TypeAlias = tuple[Notified, Line, bytes | None, int, int, int, bytes]

class Receiver:
    def __init__(self, listener: int, others: int, /) -> None: ...
    def remember(self, tid: int, fd: int, line: Line, trapped: bool, /) -> None: ...
    def forget(self, fd: int = -1, /) -> None: ...
    def receive(self) -> Notified | Begun | bool | None: ...

"""The step lock of a device, whoever made it: a `threading.Lock`, or one that a server can take without Python."""

from types import TracebackType
from typing import Protocol


class StepLock(Protocol):
    """As `threading.Lock`; released by the thread that acquired it."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: FBT001, FBT002 - as Lock's
        """``timeout`` in seconds; -1 for no end."""

    def release(self) -> None: ...

    def locked(self) -> bool: ...

    def __enter__(self) -> bool: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

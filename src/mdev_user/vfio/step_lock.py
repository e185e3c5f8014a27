"""The step lock of a device, whoever made it: in Python, or one that a server can take without it."""

from types import TracebackType
from typing import Protocol


class StepLock(Protocol):
    """As `threading.Lock`; released by the thread that acquired it, and whoever comes may pass those who wait."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: FBT001, FBT002 - as Lock's
        """``timeout`` in seconds; -1 for no end."""

    def release(self) -> None: ...

    def locked(self) -> bool: ...

    def is_wanted(self) -> bool:
        """Whether anybody waits for it. Who takes it again at once goes behind them, or they wait for ever."""

    def __enter__(self) -> bool: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

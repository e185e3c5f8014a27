"""The time during which a parent is registered: many may rely on it, one ends it.

Linux has a read-write semaphore here (``unreg_sem``), taken for reading with a trylock and for writing for ever.
"""

from threading import Condition


class Registration:
    """Begun when made; once ended it stays ended."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._relying = 0
        self._ended = False

    def try_enter(self) -> bool:
        """Rely on it until `leave`. False when it is ending or has ended; never waits."""
        with self._changed:
            if not self._ended:
                self._relying += 1
            return not self._ended

    def leave(self) -> None:
        with self._changed:
            self._relying -= 1
            self._changed.notify_all()

    def end(self) -> bool:
        """Let nobody in any more and wait for those inside. True for the one caller that ended it."""
        with self._changed:
            if self._ended:
                return False
            self._ended = True
            self._changed.wait_for(lambda: not self._relying)
            return True

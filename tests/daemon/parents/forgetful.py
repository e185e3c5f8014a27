"""mbochs on a host that forgets, for a negative control: of what a guest changed one page is never sent again."""

from collections.abc import Iterator

from mdev_user.driver.saving.shadow import Budget, Changed, Shadow
from mdev_user.drivers.mbochs import Mbochs

__all__ = ["Mbochs"]

FORGOTTEN = 0
"""The page."""

_changed = Shadow.changed


def forgetful(self: Shadow, budget: Budget) -> Iterator[Changed | None]:
    seen = getattr(forgetful, "passes", 0)
    forgetful.passes = seen + 1  # type: ignore[attr-defined]  # a function's own note, for this process
    for found in _changed(self, budget):
        yield found if not seen or found is None else _without(found)


def _without(found: Changed) -> Changed | None:
    """What was found, but for the page."""
    pages = [page for first, count in found.runs for page in range(first, first + count)]
    kept = [(page, data) for page, data in zip(pages, found.pages, strict=True) if page != FORGOTTEN]
    if not kept:
        return None
    return Changed(found.number, [(page, 1) for page, _data in kept], [data for _page, data in kept])


Shadow.changed = forgetful  # type: ignore[method-assign]  # that is what this is for

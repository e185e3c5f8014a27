"""A device that was saved and loaded against the one that went on: the first thing in which they differ."""

from mdev_user.testing.conformance.operations import Finding, Operation, Seen
from mdev_user.testing.conformance.states import difference
from mdev_user.testing.conformance.tasks import Played, Point, Reply

_LOADED = "in the device that was saved and loaded"


def same_ever_after(point: Point, went: Played, resumed: Reply, drawn: int) -> Finding | None:
    """None when they are the same. ``drawn`` of the operations were made up; the rest only reads what there is."""
    if isinstance(resumed, Finding):
        return Finding(f"{_LOADED}: {resumed.text}", point.done, resumed.after or resumed.before)
    if not isinstance(resumed, Played):
        return Finding(f"unexpected: {resumed}")
    if text := difference(point.state, went.again):
        return Finding(f"the device that was saved has changed by it: {text}", point.done, ())
    if text := difference(point.state, resumed.again):
        return Finding(f"saved, loaded and saved again at once: {text}", point.done, ())
    return _seen_otherwise(point, went, resumed, drawn) or _left_otherwise(point, went, resumed, drawn)


def _seen_otherwise(point: Point, went: Played, resumed: Played, drawn: int) -> Finding | None:
    for number, (one, other) in enumerate(zip(went.seen, resumed.seen, strict=True)):
        operation = went.operations[number - 1] if number else None
        if text := _difference(one, other, operation):
            shown = went.operations[: min(number, drawn)]
            if number > drawn and operation is not None:
                shown = (*shown, operation)
            return Finding(f"{_LOADED}, {text}", point.done, shown)
    return None


def _difference(one: Seen, other: Seen, operation: Operation | None) -> str:
    when = "when its jobs have run" if operation is None else f"at {operation}"
    for name in ("answer", "refused", "pin", "messages", "memory", "errors"):
        if name == "errors" and operation is None:
            continue  # what jobs that begin anew run into again
        wanted, given = getattr(one, name), getattr(other, name)
        if wanted != given:
            return f"{when}, {name} is {given!r:.200}, and {wanted!r:.200} in the one that went on"
    return ""


def _left_otherwise(point: Point, went: Played, resumed: Played, drawn: int) -> Finding | None:
    if text := difference(went.rested, resumed.rested):
        return Finding(f"{_LOADED}, when its jobs have run, {text}", point.done, ())
    if text := difference(went.end, resumed.end):
        return Finding(f"{_LOADED}, in the end, {text}", point.done, went.operations[:drawn])
    return None

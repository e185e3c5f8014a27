"""The values of an mdev's registers, as a table."""

from mdev_user.cli.output import Column, Output, print_json, print_line, print_listing
from mdev_user.daemon.views import ValuesView
from mdev_user.vfio.inspection import FieldValue, NamedValue
from mdev_user.vfio.requests import Region

_COMPUTED = "computed"
_CLOSED = "Nobody has the mdev open: these values were left there, and it is reset before the next user sees it."


def print_values(view: ValuesView, output: Output) -> None:
    """All of them in the form that was asked for; a table has no columns that would be empty."""
    if output is Output.JSON:
        print_json(view)
        return
    columns = [each for each in _COLUMNS if any(each[1](value) for value in view.values)]
    print_listing(output, view.values, columns, lambda value: value.name)
    if output is Output.TABLE and not view.opened:
        print_line(f"\n{_CLOSED}")


def region_name(index: int) -> str:
    """``BAR0``, ``CONFIG``."""
    return Region(index).name if 0 <= index < Region.COUNT else f"REGION{index}"


def shown_field(field: FieldValue) -> str:
    """``mode=FAST``, ``level=0x3``."""
    if field.value is None:
        return f"{field.name}={_COMPUTED}"
    return f"{field.name}={field.member or (field.value if field.value < 2 else hex(field.value))}"


def _place(value: NamedValue) -> str:
    return "" if value.region is None else f"{region_name(value.region)}+{value.offset:#05x}"


def _value(value: NamedValue) -> str:
    if value.value is None:
        return _COMPUTED
    if isinstance(value.value, str) or not value.size:
        return str(value.value)
    digits = f"0x{value.value:0{2 * value.size}x}"
    return f"{digits}, {value.computed:#x} {_COMPUTED}" if value.computed else digits


def _seen(value: NamedValue) -> str:
    """When the guest sees it at its place, where that is not always."""
    bank = f"while {value.bank}" if value.bank else ""
    return ", ".join(filter(None, (bank, "not now" if value.hidden else "")))


_COLUMNS: tuple[Column[NamedValue], ...] = (
    ("PLACE", _place),
    ("NAME", lambda value: value.name),
    ("VALUE", _value),
    ("SEEN", _seen),
    ("FIELDS", lambda value: " ".join(map(shown_field, value.fields))),
)

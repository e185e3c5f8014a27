"""Names of a driver's attributes: what sysfs has itself is refused when the parent is registered."""

import pytest

from mdev_user.errors import DriverError
from mdev_user.mdev.parent import MdevParent
from mdev_user.mdev.types import MdevAttribute
from mdev_user.pci.identity import PciId
from unit.mdev.scene import Parent


def parent(name: str, *, own: tuple[MdevAttribute, ...] = (), mdevs: tuple[MdevAttribute, ...] = ()) -> MdevParent:
    ops = Parent()
    ops.identity = PciId(1, 2, 3)
    ops.parent_attributes, ops.attributes = own, mdevs
    return MdevParent(name, ops)


@pytest.mark.parametrize(
    "attribute", [MdevAttribute("", "remove"), MdevAttribute("vfio-dev", "x"), MdevAttribute("driver", "x")]
)
def test_an_mdevs_attribute_cannot_be_what_sysfs_has_there(attribute: MdevAttribute) -> None:
    with pytest.raises(DriverError, match=r"mdevs of parent p: attribute .* sysfs has"):
        parent("p", mdevs=(attribute,))
    assert parent("p", own=(MdevAttribute("", "remove"),)).name == "p"


def test_a_parents_attribute_cannot_be_what_sysfs_has_there() -> None:
    vendor = MdevAttribute("vendor", "clock")
    assert parent("p", own=(vendor,), mdevs=(vendor,)).name == "p"
    assert parent("4d44:00:00.0", mdevs=(vendor,)).name == "4d44:00:00.0"
    with pytest.raises(DriverError, match="sysfs has vendor there itself"):
        parent("4d44:00:00.0", own=(vendor,))
    with pytest.raises(DriverError, match="sysfs has mdev_supported_types"):
        parent("p", own=(MdevAttribute("mdev_supported_types", "x"),))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "a\nb"])
def test_an_attribute_is_named_by_file_names(name: str) -> None:
    for attribute in (MdevAttribute("", name), MdevAttribute("group", name), MdevAttribute(name or "/", "x")):
        with pytest.raises(DriverError, match="file names"):
            parent("p", mdevs=(attribute,))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (MdevAttribute("", "a"), MdevAttribute("", "a")),
        (MdevAttribute("g", "a"), MdevAttribute("g", "a", writable=True)),
        (MdevAttribute("g", "a"), MdevAttribute("", "g")),
        (MdevAttribute("", "g"), MdevAttribute("g", "a")),
    ],
)
def test_a_name_is_given_once(first: MdevAttribute, second: MdevAttribute) -> None:
    with pytest.raises(DriverError, match="is there already"):
        parent("p", own=(first, second))
    assert parent("p", own=(first, MdevAttribute("", "other"), MdevAttribute("h", "a"))).name == "p"

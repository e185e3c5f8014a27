"""Parents that are PCI functions by their names: devices/pciDDDD:BB/<address> and bus/pci, as Linux shows them.

Each is a plain function of its driver's identity, without BARs, interrupts and capabilities: there is nothing of it
but what its mdevs are cut from. Files and formats are those of drivers/pci/pci-sysfs.c.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mdev_user.errors import Busy, InvalidValue
from mdev_user.mdev.parent import MdevParent
from mdev_user.mdev.parsing import parse_unsigned
from mdev_user.pci.config import ConfigSpace
from mdev_user.pci.identity import PciId
from mdev_user.sysfs.paths import PCI_BUS, module_path, parent_path, pci_driver_path
from mdev_user.sysfs.tree import Rule, Tree
from mdev_user.sysfs.uevent_file import Announce, UeventFile, add_uevent, add_write_only_uevent
from mdev_user.sysfs.uevents import pci_properties

_PUBLIC_CONFIG = 64
"""Bytes of config space that everybody may read: the header."""
_RESOURCES = 13
"""Lines of ``resource``: six BARs, the ROM, and the six of virtual functions (CONFIG_PCI_IOV)."""
_NO_NODE = -1
_NODES = 1024
"""The most that Linux can be built for (NODES_SHIFT)."""
_WORD = 32


@dataclass(slots=True)
class _Function:
    """The subject of a function's files."""

    name: str
    driver: str
    identity: PciId
    cpus: int
    numa_node: int = _NO_NODE
    config: ConfigSpace = field(init=False)

    def __post_init__(self) -> None:
        self.config = ConfigSpace(self.identity, {}, interrupt_pin=0)

    def properties(self) -> Mapping[str, str]:
        return {"DRIVER": self.driver, **pci_properties(self.identity, self.name)}


class PciFunctions:
    """A driver is on the PCI bus while it has functions there; that of a bus comes and goes with its functions."""

    def __init__(self, tree: Tree, announce: Announce, cpus: int) -> None:
        self._tree = tree
        self._announce = announce
        self._cpus = cpus

    def add_driver(self, name: str) -> None:
        path = pci_driver_path(name)
        self._tree.add_directory(f"{PCI_BUS}/devices")
        self._tree.add_directory(path)
        add_write_only_uevent(self._tree, UeventFile(self._announce, path, "drivers"))
        self._tree.add_link(f"{path}/module", module_path(name))

    def remove_driver(self, name: str) -> None:
        self._tree.remove(pci_driver_path(name))
        for path in (f"{PCI_BUS}/drivers", f"{PCI_BUS}/devices", PCI_BUS):
            self._tree.remove_if_empty(path)

    def add(self, parent: MdevParent) -> None:
        """The identity is there: a parent of such a name is refused without one."""
        name, driver, path = parent.name, parent.ops.driver_name, parent_path(parent)
        if parent.ops.identity is None:
            raise InvalidValue(f"parent {name}: a PCI function has an identity")
        function = _Function(name, driver, parent.ops.identity, self._cpus)
        self._tree.add_directory(path)
        for file, rule in _FILES.items():
            self._tree.add_attribute(f"{path}/{file}", rule, function)
        self._tree.add_binary(f"{path}/config", 0o644, function.config, _PUBLIC_CONFIG)
        add_uevent(self._tree, UeventFile(self._announce, path, "pci", function.properties))
        self._tree.add_link(f"{path}/subsystem", PCI_BUS)
        self._tree.add_link(f"{path}/driver", pci_driver_path(driver))
        self._tree.add_link(f"{pci_driver_path(driver)}/{name}", path)
        self._tree.add_link(f"{PCI_BUS}/devices/{name}", path)

    def remove(self, parent: MdevParent) -> None:
        name, driver, path = parent.name, parent.ops.driver_name, parent_path(parent)
        self._tree.remove(f"{PCI_BUS}/devices/{name}")
        self._tree.remove(f"{pci_driver_path(driver)}/{name}")
        self._tree.remove(path)
        self._tree.remove_if_empty(path.rpartition("/")[0])


def _number(digits: int, of: Callable[[PciId], int]) -> Rule[_Function]:
    return Rule(0o444, lambda function: f"0x{of(function.identity):0{digits}x}\n")


def _text(text: str) -> Rule[_Function]:
    return Rule(0o444, lambda _function: text)


def _modalias(function: _Function) -> str:
    return f"{pci_properties(function.identity, function.name)['MODALIAS']}\n"


def _local_cpus(function: _Function) -> str:
    """A mask of all CPUs, in groups of 32 bits."""
    mask = (1 << function.cpus) - 1
    words = [mask >> low & 0xFFFF_FFFF for low in range(0, function.cpus, _WORD)]
    first, *rest = reversed(words)
    return ",".join([f"{first:0{((function.cpus - 1) % _WORD) // 4 + 1}x}", *(f"{word:08x}" for word in rest)]) + "\n"


def _local_cpulist(function: _Function) -> str:
    return f"0-{function.cpus - 1}\n" if function.cpus > 1 else "0\n"


def _numa_node(function: _Function) -> str:
    return f"{function.numa_node}\n"


def _store_numa_node(function: _Function, data: bytes) -> None:
    """A node, also one that the machine does not have, or -1 for none. EINVAL."""
    text = data.removesuffix(b"\n")
    node = _NO_NODE if text == b"-1" else parse_unsigned(data)
    if node >= _NODES:
        raise InvalidValue(f"numa_node: expected -1 to {_NODES - 1}, given {data[:20]!r}")
    function.numa_node = node


def _store_enable(function: _Function, data: bytes) -> None:
    """As Linux answers while a driver has the function: EBUSY; EINVAL for what is no number."""
    parse_unsigned(data)
    raise Busy(f"{function.name} is in use by its driver {function.driver}")


_FILES: dict[str, Rule[_Function]] = {
    "vendor": _number(4, lambda identity: identity.vendor),
    "device": _number(4, lambda identity: identity.device),
    "subsystem_vendor": _number(4, lambda identity: identity.subsystem_ids[0]),
    "subsystem_device": _number(4, lambda identity: identity.subsystem_ids[1]),
    "class": _number(6, lambda identity: identity.class_code),
    "revision": _number(2, lambda identity: identity.revision),
    "modalias": Rule(0o444, _modalias),
    "resource": _text(f"{' '.join(['0x0000000000000000'] * 3)}\n" * _RESOURCES),
    "irq": _text("0\n"),
    "enable": Rule(0o644, lambda _function: "1\n", _store_enable),
    "numa_node": Rule(0o644, _numa_node, _store_numa_node),
    "local_cpus": Rule(0o444, _local_cpus),
    "local_cpulist": Rule(0o444, _local_cpulist),
    "ari_enabled": _text("0\n"),
    "power_state": _text("D0\n"),
    "dma_mask_bits": _text("64\n"),
    "consistent_dma_mask_bits": _text("64\n"),
}

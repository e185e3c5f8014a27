"""Faults of one line, of the kind that is made: each has to be found by the target that it names."""

from fuzz.planting import Plant

_MESSAGES, _RING = "mdev_user.vfio_user.messages", "mdev_user.driver.virtio.ring"
_GPU = "mdev_user.drivers.vgpu"
_ALL = (
    Plant(
        "codec-wrap", "codec", f"{_MESSAGES}.payload:check_access",
        "if offset + count > TOP:", "if offset > TOP:",
        "an access may leave the 64-bit range",
    ),
    Plant(
        "codec-vectors", "codec", f"{_MESSAGES}.irqs:DeviceSetIrqs.decode",
        "if start + count > MOST_VECTORS:", "if count > MOST_VECTORS:",
        "SET_IRQS may begin behind the last vector",
    ),
    Plant(
        "codec-loop", "codec", "mdev_user.vfio_user.region_capabilities:_links",
        "if at < seen + _HEADER.size or at", "if at",
        "a capability chain may lead back into itself",
    ),
    Plant(
        "codec-ranges", "codec", f"{_MESSAGES}.features:DmaLogging.decode",
        "if len(data) < end:", "if len(data) < _CONTROL.size:",
        "ranges to log need not be in the message",
    ),
    Plant(
        "connection-fds", "connection", "mdev_user.vfio_user.connection:Connection._answered",
        "self._fds.append((self._consumed, fds))", "pass",
        "the fds of a reply that nobody asked for are lost",
    ),
    Plant(
        "connection-size", "connection", "mdev_user.vfio_user.connection:Connection._check_size",
        "if not HEADER.size <= header.size <= largest:", "if not header.size <= largest:",
        "a message may be smaller than its header",
    ),
    Plant(
        "connection-eventfds", "connection", "mdev_user.vfio_user.connection:_check_eventfds",
        "if len(fds) not in {0, request.count}:", "if len(fds) > request.count:",
        "fewer eventfds than vectors may come",
    ),
    Plant(
        "connection-pending", "connection", "mdev_user.vfio_user.connection:Connection._answered",
        "del self._pending[header.id]", "pass",
        "a question stays open after its answer",
    ),
    Plant(
        "session-posted", "session", "mdev_user.vfio_user.connection:Connection._refused",
        'b"" if header.no_reply else error', "error",
        "a refused message is answered though it wants no reply",
    ),
    Plant(
        "session-eventfd", "session", "mdev_user.vfio.irqs:_replace",
        "if old is not None:", "if old is None:",
        "the eventfd that another one replaces stays open",
    ),
    Plant(
        "config-w1c", "config", "mdev_user.pci.masked:MaskedBytes.store",
        "~(given & w1c)", "~w1c",
        "any write to Status clears its errors",
    ),
    Plant(
        "config-power", "config", "mdev_user.pci.config:ConfigSpace.write",
        "if self.power_state in (1, 2):", "if self.power_state == 1:",
        "the power state can become D2",
    ),
    Plant(
        "config-messages", "config", "mdev_user.pci.config:ConfigSpace.msi_vectors",
        "return min(allocated, self._msi.vectors)", "return allocated",
        "a guest may allocate more MSI messages than there are",
    ),
    Plant(
        "config-pin", "config", "mdev_user.pci.interrupts:Interrupts._settle_pin",
        "wanted = self._levels != 0 or self._held != 0", "wanted = self._held != 0",
        "a level does not raise the pin",
    ),
    Plant(
        "loader-pages", "loader", "mdev_user.driver.saving.pages:checked_runs",
        "first + count <= size", "first <= size",
        "saved pages may lie behind the end of the memory",
    ),
    Plant(
        "loader-reserved", "loader", "mdev_user.driver.saving.state:_register",
        "(value ^ slot.reset) & reserved_bits(slot)", "0",
        "saved registers may have reserved bits",
    ),
    Plant(
        "loader-half", "loader", "mdev_user.driver.saving.transfer:_load_pci",
        "space.load(before)", "pass",
        "what was loaded before something is refused stays",
    ),
    Plant(
        "loader-jobs", "loader", "mdev_user.driver.saving.jobs:checked_jobs",
        "if count > job._limit:", "if count > job._limit + 1:",
        "one job more is under way than may be",
    ),
    Plant(
        "stream-undo", "stream", "mdev_user.driver.saving.incoming:_Records.close",
        "self._landing.undo()", "pass",
        "memory that came with a stream that is refused stays",
    ),
    Plant(
        "stream-reset", "stream", "mdev_user.vfio.migration:Migration.reset",
        "self.state = RUNNING", "pass",
        "a device that was reset stays where its migration was",
    ),
    Plant(
        "config-mask", "config", "mdev_user.pci.interrupts:Interrupts._blocked",
        "if self._table is None or self._config.msix_function_mask:", "if self._table is None:",
        "MSI-X messages are sent while the function is masked",
    ),
    Plant(
        "session-overlap", "session", "mdev_user.vfio.dma:DmaMappings.map",
        "if at and _end(self._mappings[at - 1]) > mapping.iova:", "if at and self._starts[at - 1] > mapping.iova:",
        "a mapping may begin within the one before it",
    ),
    Plant(
        "virtqueue-order", "virtqueue", f"{_RING}:Buffers.add",
        "elif self.writable:", "elif False:",
        "a buffer to read may lie behind one to write",
    ),
    Plant(
        "virtqueue-jump", "virtqueue", f"{_RING}:Ring.waiting",
        "if waiting + kept > self.size:", "if waiting + kept > 2 * self.size:",
        "more chains may be available than there are entries",
    ),
    Plant(
        "virtqueue-kept", "virtqueue", f"{_RING}:Ring.waiting",
        "if waiting + kept > self.size:", "if waiting > self.size:",
        "as many chains may be available as if none were kept",
    ),
    Plant(
        "virtqueue-nested", "virtqueue", f"{_RING}:Ring._indirect",
        "if each.flags & NEXT:", "if False:",
        "an indirect table may have a next descriptor",
    ),
    Plant(
        "virtqueue-event", "virtqueue", f"{_RING}:Ring.wants_interrupt",
        "< (served - told) % INDEXES", "<= (served - told) % INDEXES",
        "a chain that was not served yet interrupts",
    ),
    Plant(
        "gpu-quota", "gpu", f"{_GPU}.function:Vgpu._place_for",
        "if needed > free or", "if",
        "a resource may be larger than what is free",
    ),
    Plant(
        "gpu-part", "gpu", f"{_GPU}.resources:Resource.holds",
        "return within and", "return",
        "a part may reach behind its resource",
    ),
    Plant(
        "gpu-hole", "gpu", f"{_GPU}.resources:Places.hole",
        "if at - end >= needed:", "if at >= end:",
        "a resource is put where it does not fit",
    ),
    Plant(
        "gpu-backing", "gpu", f"{_GPU}.function:Vgpu.transfer_2d",
        "if command.offset + resource.span(rect) > backing.size:", "if False:",
        "a transfer may begin behind the backing",
    ),
)  # fmt: skip
PLANTS = {each.name: each for each in _ALL}

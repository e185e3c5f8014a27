"""What a VFIO device is: information, regions, interrupts, DMA mappings and the operations of a device.

Pure: bytes, values and calls. Eventfds, guest memory and sockets come from above as objects with the methods that
the protocols here name. Numbers are those of Linux's ``include/uapi/linux/vfio.h``.
"""

"""A file system in FUSE whose one file can be opened; it answers nothing after that: ``python unanswering.py FOLDER``.

It has no file of its own open, so that its end is the file system's, and with it everybody's who waits. It ends by
itself after half a minute: who waits for FUSE at a close cannot even be killed.
"""

import ctypes
import os
import struct
import sys
import threading
import time

LOOKUP, GETATTR, OPEN, STATFS, INIT = 1, 3, 14, 17, 26
SIZE = 1 << 20
SECONDS = 30
_IN = struct.Struct("=IIQQIIII")


def attributes(node: int) -> bytes:
    mode = 0o040755 if node == 1 else 0o100666
    return struct.pack("=6Q10I", node, SIZE, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


class Server:
    """The part of include/uapi/linux/fuse.h that an open needs."""

    def __init__(self, device: int) -> None:
        self._device = device
        self._opened = False

    def run(self) -> None:
        while True:
            data = os.read(self._device, 1 << 17)
            _length, operation, unique, node, *_rest = _IN.unpack_from(data)
            body = self._answer(operation, node)
            if body is not None and not self._opened:
                os.write(self._device, struct.pack("=IiQ", 16 + len(body), 0, unique) + body)
            self._opened |= operation == OPEN

    def _answer(self, operation: int, node: int) -> bytes | None:
        if operation == INIT:
            return struct.pack("=IIIIHHI", 7, 31, 4096, 0, 12, 9, 4096) + struct.pack("=I", 1) + bytes(36)
        if operation == LOOKUP:
            return struct.pack("=QQQQII", 2, 0, 0, 0, 0, 0) + attributes(2)
        if operation == GETATTR:
            return struct.pack("=QII", 0, 0, 0) + attributes(node)
        if operation == OPEN:
            return struct.pack("=QII", 7, 0, 0)
        return None


def main() -> None:
    folder = sys.argv[1]
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    library = ctypes.CDLL(None, use_errno=True)
    if library.mount(b"unanswering", folder.encode(), b"fuse", 6, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")
    threading.Thread(target=Server(device).run, daemon=True).start()
    print("mounted", flush=True)
    time.sleep(SECONDS)
    os._exit(0)


if __name__ == "__main__":
    main()

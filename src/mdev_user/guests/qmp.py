"""A client of QEMU's machine protocol (QMP): one command at a time, events set aside.

Source: QEMU, docs/interop/qmp-spec.rst.
"""

import json
import socket

from mdev_user.guests.console import GuestFailed, GuestTimeout

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None


class Qmp:
    """A QMP session over ``connection``, a connected stream socket; the greeting is awaited at the first command."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._negotiated = False
        self.events: list[dict[str, Json]] = []
        """Events in the order of their arrival, seen while waiting for replies."""

    def execute(self, command: str, arguments: dict[str, Json] | None = None, seconds: float = 30.0) -> Json:
        """The value that ``command`` returns; GuestFailed with QEMU's own words where it refuses."""
        self._connection.settimeout(seconds)
        try:
            if not self._negotiated:
                self._receive()  # the greeting
                self._call("qmp_capabilities", {})
                self._negotiated = True
            return self._call(command, arguments or {})
        except TimeoutError as error:
            message = f"QEMU did not answer {command} within {seconds} s"
            raise GuestTimeout(message) from error
        except OSError as error:
            message = f"QEMU is gone: {error}"
            raise GuestFailed(message) from error

    def close(self) -> None:
        self._lines.close()
        self._connection.close()

    def _call(self, command: str, arguments: dict[str, Json]) -> Json:
        self._connection.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            reply = self._receive()
            if "return" in reply:
                return reply["return"]
            if "error" in reply:
                message = f"QEMU refused {command}: {reply['error']}"
                raise GuestFailed(message)
            self.events.append(reply)

    def _receive(self) -> dict[str, Json]:
        line = self._lines.readline()
        if not line:
            message = "QEMU is gone: it closed its QMP socket"
            raise GuestFailed(message)
        value: Json = json.loads(line)
        return value if isinstance(value, dict) else {}

"""The end of a connection, so that the peer learns of it in order: an errno for whom we refuse, and no reset.

A socket that is closed with something unread in it is a reset to its peer (ECONNRESET, net/unix/af_unix.c). QEMU 11.1
aborts at one: its vfio_user_recv_hdr reports the error of the read twice. So what is unread is thrown away first.
"""

import socket
from contextlib import suppress

from mdev_user.vfio_user.framing import HEADER, Command, Header, error_message

_PATIENCE = 0.2
"""Seconds for the first message of whom we refuse. It follows the connection at once."""
_PIECE = 1 << 16


def refuse(connection: socket.socket, errno: int) -> None:
    """Answer its VERSION with an errno, and close it."""
    connection.settimeout(_PATIENCE)
    with suppress(OSError):
        asked = connection.recv(HEADER.size, socket.MSG_WAITALL)
        if len(asked) == HEADER.size:
            connection.sendall(error_message(Header.decode(asked).id, Command.VERSION, errno))
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    close(connection)


def close(connection: socket.socket) -> None:
    """Close a connection that was shut down: nothing more comes, and what came is read."""
    with suppress(OSError):
        while connection.recv(_PIECE, socket.MSG_DONTWAIT):  # file descriptors that come with it are closed
            pass
    connection.close()

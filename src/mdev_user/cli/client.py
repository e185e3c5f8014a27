"""The command line's end of the control API is the daemon's own client."""

from mdev_user.daemon.client import MOST_ANSWER, Client, NoDaemon, Refused

__all__ = ["MOST_ANSWER", "Client", "NoDaemon", "Refused"]

"""The process in which parents live: steps, jobs, timers, and the vfio-user sockets of their mdevs.

`remote` is its face for the front; everything else runs in the host process.
"""

import sys

PYTHON = (sys.executable, "-P", "-m")
"""The beginning of an argv that runs a module of ours. -P: whoever starts us may stand in anybody's folder, and Python
would take modules from there first.
"""

SOCKET_NAME = "vfio-user.sock"
"""An mdev's socket, in a folder named by its UUID below the folder that both were told of."""

MIGRATION_FOLDER = "migration"
"""Beside the mdevs' own folders: for the sockets of those whose state is being moved. It stays the daemon's."""

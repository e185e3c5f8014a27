"""The process in which parents live: steps, jobs, timers, and the vfio-user sockets of their mdevs.

`remote` is its face for the front; everything else runs in the host process.
"""

SOCKET_NAME = "vfio-user.sock"
"""An mdev's socket, in a folder named by its UUID below the folder that both were told of."""

"""The vfio-user protocol: a VFIO device over a UNIX socket, as QEMU >= 10.1 speaks it.

``messages``, ``version`` and ``connection`` are pure (bytes and file descriptors in, events out); ``server`` and
``client`` put sockets under them. The protocol is QEMU's ``docs/interop/vfio-user.rst``.
"""

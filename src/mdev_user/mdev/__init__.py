"""The mdev framework: the mdev bus, parents, their types, mdevs and their life cycle.

The structure is that of ``drivers/vfio/mdev`` of Linux 5.2 to 5.13, the visible behaviour that of Linux 7.2. Pure
but for locks, which are its subject: `bus` has one lock for what exists, `parent` one semaphore for a parent's life.
"""

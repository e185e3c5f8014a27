"""The driver of the mdev bus that makes every mdev a standard VFIO device. A proxy, nothing more."""

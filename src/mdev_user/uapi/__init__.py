"""The kernel's VFIO ioctl ABI for unmodified programs."""

"""Numbers and structures of the ioctls, as <linux/vfio.h> and <linux/iommufd.h> have them: no I/O."""

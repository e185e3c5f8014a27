"""The numbers of VFIO's character devices: what ``st_rdev`` of a node is, and the file ``dev`` in sysfs.

/dev/vfio/vfio has Linux's own number (include/linux/miscdevice.h). Those of the others Linux gives out as they are
asked for: here the majors of groups and of cdevs are fixed, in the range from which it takes such (234 to 254,
Documentation/admin-guide/devices.txt), and a minor is the number of the group or of the VFIO device.
"""

Number = tuple[int, int]
"""Major and minor."""

CONTAINER: Number = (10, 196)
"""/dev/vfio/vfio."""
IOMMU: Number = (10, 197)
"""/dev/iommu."""
GROUP_MAJOR = 242
"""/dev/vfio/N."""
CDEV_MAJOR = 243
"""/dev/vfio/devices/vfioN."""

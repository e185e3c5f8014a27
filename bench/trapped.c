/* A program that accesses one register of an mdev through VFIO's system calls, as the kernel offers them, and checks it.
 *
 * Usage: trapped GROUP UUID REGION OFFSET; rounds are asked for on stdin (see latency.h). "trapped FD REGION OFFSET" does
 * the same with a device's file that it was given.
 */
#include <fcntl.h>
#include <linux/vfio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "latency.h"

struct device {
    int fd;
    uint64_t place;
    uint32_t value;
};

static const uint32_t every_byte = (uint32_t)(0x01010101u & ((1ull << 8 * REGISTER) - 1));

static int opened(const char *path)
{
    int fd = open(path, O_RDWR);
    if (fd < 0)
        die(path);
    return fd;
}

static int device_of(const char *group_number, const char *uuid)
{
    char path[64];
    snprintf(path, sizeof(path), "/dev/vfio/%s", group_number);
    int container = opened("/dev/vfio/vfio"), group = opened(path);
    if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) || ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
        die(path);
    int fd = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, uuid);
    if (fd < 0)
        die(uuid);
    return fd;
}

static void read_access(void *context)
{
    struct device *device = context;
    device->value = 0;
    if (pread(device->fd, &device->value, REGISTER, (off_t)device->place) != REGISTER)
        die("pread");
}

static void write_access(void *context)
{
    struct device *device = context;
    device->value += 0x01010101;
    if (pwrite(device->fd, &device->value, REGISTER, (off_t)device->place) != REGISTER)
        die("pwrite");
}

int main(int argc, char **argv)
{
    if (argc != 4 && argc != 5) {
        fprintf(stderr, "usage: trapped GROUP UUID REGION OFFSET | trapped FD REGION OFFSET\n");
        return 2;
    }
    struct device device = {.fd = argc == 5 ? device_of(argv[1], argv[2]) : atoi(argv[1])};
    struct vfio_region_info region = {.argsz = sizeof(region), .index = (uint32_t)atoi(argv[argc - 2])};
    if (argc == 5 && ioctl(device.fd, VFIO_DEVICE_GET_REGION_INFO, &region))
        die("region");
    else if (argc == 4)
        region.offset = (1ull << 62) + ((uint64_t)region.index << 40);
    device.place = region.offset + strtoul(argv[argc - 1], NULL, 0);
    device.value = 0x59 * every_byte;
    write_access(&device);
    read_access(&device);
    if (device.value != 0x5A * every_byte) {
        fprintf(stderr, "trapped: the register did not keep what was written\n");
        return 1;
    }
    serve_rounds(read_access, write_access, 0, &device);
    return 0;
}

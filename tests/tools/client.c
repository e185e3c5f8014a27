/*
 * A small VFIO client: client GROUP UUID [COUNT [interrupted]]. It opens the mdev by its group, as the kernel's
 * documents do, and waits to be killed; with COUNT it writes so often to the first register of region 0, under a storm
 * of signals, and prints how many writes succeeded, what the second register says, and how many signals came. Where it
 * is to be interrupted, the handler has no SA_RESTART.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#define PERIOD_US 100

/* <linux/vfio.h>, which musl has not. */
#define SET_IOMMU 0x3b66
#define GROUP_SET_CONTAINER 0x3b68
#define GROUP_GET_DEVICE_FD 0x3b6a
#define DEVICE_GET_REGION_INFO 0x3b6c
#define IOMMU_MAP_DMA 0x3b71
#define TYPE1V2 3

struct region_info {
	unsigned int argsz, flags, index, cap_offset;
	unsigned long size, offset;
};

struct dma_map {
	unsigned int argsz, flags;
	unsigned long vaddr, iova, size;
};

static volatile unsigned long signals;

static void count_signal(int number)
{
	(void)number;
	signals++;
}

static int must(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
	return result;
}

static void storm(int device, unsigned long count, int flags)
{
	struct region_info region = { .argsz = sizeof(region), .index = 0 };
	struct sigaction action = { .sa_handler = count_signal, .sa_flags = flags };
	struct itimerval timer = { { 0, PERIOD_US }, { 0, PERIOD_US } }, none = { { 0, 0 }, { 0, 0 } };
	unsigned long done = 0, at;
	unsigned int value = 1;

	must(ioctl(device, DEVICE_GET_REGION_INFO, &region), "region");
	must(sigaction(SIGALRM, &action, NULL), "sigaction");
	must(setitimer(ITIMER_REAL, &timer, NULL), "setitimer");
	for (at = 0; at < count; at++)
		done += pwrite(device, &value, sizeof(value), region.offset) == sizeof(value);
	must(setitimer(ITIMER_REAL, &none, NULL), "setitimer");
	must(pread(device, &value, sizeof(value), region.offset + 4), "pread");
	printf("%lu %u %lu\n", done, value, signals);
}

int main(int argc, char **argv)
{
	int container = must(open("/dev/vfio/vfio", O_RDWR), "container");
	int group = must(open(argv[1], O_RDWR), "group"), device, event;
	void *memory = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct dma_map map = { .argsz = sizeof(map), .flags = 3, .size = 1 << 16 };

	must(ioctl(group, GROUP_SET_CONTAINER, &container), "set container");
	must(ioctl(container, SET_IOMMU, TYPE1V2), "set iommu");
	map.vaddr = (unsigned long)memory;
	must(ioctl(container, IOMMU_MAP_DMA, &map), "map");
	device = must(ioctl(group, GROUP_GET_DEVICE_FD, argv[2]), "device");
	event = must(eventfd(0, 0), "eventfd");
	(void)event;
	if (argc > 3) {
		storm(device, strtoul(argv[3], NULL, 0), argc > 4 ? 0 : SA_RESTART);
		return 0;
	}
	must(write(1, "r", 1), "write");
	pause();
	return 0;
}

/* A user-space driver of edu, for a guest that has nothing but a kernel: it does what its arguments say, in turn.
 *
 *     edu_program WAY NUMBER STEP...
 *
 * WAY is how it holds the NUMBERth edu below /sys/bus/pci: "resource" (no driver, no interrupt), "uio"
 * (uio_pci_generic, INTx) or "vfio" (vfio-pci, MSI, and memory behind an IOMMU). Each step prints one line, or nothing.
 *
 * The few numbers of the kernel's interfaces are its user-space ABI (linux/pci_regs.h, linux/vfio.h, and
 * Documentation/admin-guide/mm/pagemap.rst); the headers themselves would be a compiler's worth of packages.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { VENDOR = 0x1234, DEVICE = 0x11E8, BAR_SIZE = 1 << 20, PAGE = 4096 };
enum { IDENT = 0x00, LIVENESS = 0x04, FACTORIAL = 0x08, STATUS = 0x20, IRQ = 0x24, RAISE = 0x60, ACKNOWLEDGE = 0x64 };
enum { SOURCE = 0x80, TARGET = 0x88, COUNT = 0x90, COMMAND = 0x98, BUFFER = 0x40000 };
enum { COMPUTING = 0x01, IRQ_WHEN_COMPUTED = 0x80, START = 1, TO_RAM = 2, IRQ_WHEN_COPIED = 4 };
enum { PCI_COMMAND = 4, MEMORY_AND_MASTER = 6, PCI_COMMAND_HIGH = 5 };
enum { TYPE1v2 = 3, READ_WRITE = 3, CONFIG_REGION = 7, MSI = 1, EVENTFD_TRIGGER = 4 | 32 };
enum { SET_IOMMU = 102, SET_CONTAINER = 104, GET_DEVICE = 106, REGION_INFO = 108, SET_IRQS = 110, MAP_DMA = 113 };
#define VFIO(number) ((';' << 8) | (number))

static const uint64_t IOVA = 0x0ABC0000; /* where an IOMMU shows our page to the device */

static char function[300]; /* /sys/bus/pci/devices/... */
static volatile unsigned char *bar;
static unsigned char *page;     /* the memory that the device copies from and to ... */
static uint64_t address;        /* ... and its address on the device's bus */
static int interrupts;          /* becomes readable with an interrupt; -1 where none can come */
static int counter_size;        /* how many bytes are then read from it */
static int config;              /* the config space ... */
static uint64_t config_offset;  /* ... which is here in that file */
static int by_interrupt;        /* whether the device is asked to interrupt when it has done something */
static int patience = 5000;     /* for how many ms an interrupt is waited for */

static void checked(int good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "edu_program: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int opened(const char *path, int flags)
{
    int fd = open(path, flags);
    checked(fd >= 0, path);
    return fd;
}

static const char *below(const char *name)
{
    static char path[400];
    snprintf(path, sizeof path, "%s/%s", function, name);
    return path;
}

static unsigned long number_in(const char *path)
{
    char text[32] = "";
    int fd = opened(path, O_RDONLY);
    checked(read(fd, text, sizeof text - 1) > 0, path);
    close(fd);
    return strtoul(text, NULL, 0);
}

static int is_edu(const struct dirent *entry)
{
    if (entry->d_name[0] == '.')
        return 0;
    snprintf(function, sizeof function, "/sys/bus/pci/devices/%s", entry->d_name);
    return number_in(below("vendor")) == VENDOR && number_in(below("device")) == DEVICE;
}

static void find(int number)
{
    struct dirent **found;
    int count = scandir("/sys/bus/pci/devices", &found, is_edu, alphasort);
    checked(number < count, "no such edu");
    snprintf(function, sizeof function, "/sys/bus/pci/devices/%s", found[number]->d_name);
}

/* The last component of what a link points to, or the only entry of a folder. */
static const char *name_at(const char *path)
{
    static char target[400];
    ssize_t size = readlink(path, target, sizeof target - 1);
    if (size > 0) {
        target[size] = 0;
        return strrchr(target, '/') + 1;
    }
    DIR *folder = opendir(path);
    checked(folder != NULL, path);
    struct dirent *entry;
    while ((entry = readdir(folder)) && entry->d_name[0] == '.')
        ;
    checked(entry != NULL, path);
    return strcpy(target, entry->d_name);
}

/* --- registers: exactly one access of the given size each ------------------------------------------------------ */

static uint32_t get32(int at) { return *(volatile uint32_t *)(bar + at); }
static void set32(int at, uint32_t value) { *(volatile uint32_t *)(bar + at) = value; }
static void set64(int at, uint64_t value) { *(volatile uint64_t *)(bar + at) = value; }

static void set_config(int at, uint16_t value, int size)
{
    checked(pwrite(config, &value, size, config_offset + at) == size, "config space");
}

/* --- the ways to hold the device ------------------------------------------------------------------------------- */

static void map_bar(int fd, uint64_t offset)
{
    bar = mmap(NULL, BAR_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
    checked(bar != MAP_FAILED, "mapping BAR 0");
}

static void find_physical_address(void)
{
    uint64_t entry;
    int fd = opened("/proc/self/pagemap", O_RDONLY);
    checked(pread(fd, &entry, 8, (uintptr_t)page / PAGE * 8) == 8, "pagemap");
    address = (entry & ((1ULL << 55) - 1)) * PAGE;
    checked(address != 0, "the page has no physical address");
    close(fd);
}

static void hold_files(void)
{
    config = opened(below("config"), O_RDWR);
    map_bar(opened(below("resource0"), O_RDWR), 0);
    find_physical_address();
}

static void hold_by_resource(void)
{
    int fd = opened(below("enable"), O_WRONLY);
    checked(write(fd, "1", 1) == 1, "enabling");
    close(fd);
    hold_files();
    interrupts = -1;
}

/* While a driver holds the function the kernel alone enables it. */
static void hold_by_uio(void)
{
    char path[300];
    hold_files();
    snprintf(path, sizeof path, "/dev/%s", name_at(below("uio")));
    interrupts = opened(path, O_RDWR);
    counter_size = 4;
}

static uint64_t region_offset(int device, uint32_t index)
{
    struct { uint32_t size, flags, index, capability; uint64_t length, offset; } info = { sizeof info, 0, index };
    checked(!ioctl(device, VFIO(REGION_INFO), &info), "region info");
    return info.offset;
}

static void hold_by_vfio(void)
{
    char path[300];
    int container = opened("/dev/vfio/vfio", O_RDWR);
    snprintf(path, sizeof path, "/dev/vfio/%s", name_at(below("iommu_group")));
    int group = opened(path, O_RDWR);
    checked(!ioctl(group, VFIO(SET_CONTAINER), &container), "setting the container");
    checked(!ioctl(container, VFIO(SET_IOMMU), TYPE1v2), "setting the IOMMU");
    int device = ioctl(group, VFIO(GET_DEVICE), strrchr(function, '/') + 1);
    checked(device >= 0, "getting the device");
    struct { uint32_t size, flags; uint64_t memory, iova, length; } map =
        { sizeof map, READ_WRITE, (uintptr_t)page, IOVA, PAGE };
    checked(!ioctl(container, VFIO(MAP_DMA), &map), "mapping memory for DMA");
    address = IOVA;
    interrupts = eventfd(0, 0);
    counter_size = 8;
    struct { uint32_t size, flags, index, start, count; int32_t fd; } irqs =
        { sizeof irqs, EVENTFD_TRIGGER, MSI, 0, 1, interrupts };
    checked(!ioctl(device, VFIO(SET_IRQS), &irqs), "enabling MSI");
    config = device;
    config_offset = region_offset(device, CONFIG_REGION);
    map_bar(device, region_offset(device, 0));
}

static const struct { const char *name; void (*hold)(void); } ways[] = {
    { "resource", hold_by_resource }, { "uio", hold_by_uio }, { "vfio", hold_by_vfio },
};

/* --- interrupts ------------------------------------------------------------------------------------------------ */

/* How many came since the last time, 0 if none came within our patience. */
static unsigned long arrived(void)
{
    struct pollfd waited = { interrupts, POLLIN };
    uint64_t count = 0;
    if (poll(&waited, 1, patience) != 1)
        return 0;
    checked(read(interrupts, &count, counter_size) == counter_size, "reading the interrupt");
    return counter_size == 8 ? count : 1; /* uio counts from the start; but it turns INTx off with each */
}

/* Asks uio_pci_generic for the next interrupt. */
static void unmask(void)
{
    if (counter_size == 4)
        set_config(PCI_COMMAND_HIGH, 0, 1);
}

/* Waits until the register's bits are 0, or until the interrupt for the cause came and is acknowledged. */
static const char *completed(int at, uint32_t busy, uint32_t cause)
{
    if (!by_interrupt) {
        while (get32(at) & busy)
            ;
        return "by polling";
    }
    if (!arrived())
        return "no interrupt";
    if (get32(at) & busy || get32(IRQ) != cause)
        return "by an interrupt without its cause";
    set32(ACKNOWLEDGE, cause);
    unmask();
    return "by interrupt";
}

/* --- the steps ------------------------------------------------------------------------------------------------- */

static void identity(unsigned long unused) { printf("identity %08x\n", get32(IDENT)); }

static void invert(unsigned long value)
{
    set32(LIVENESS, value);
    printf("invert %08x\n", get32(LIVENESS));
}

static void ask_for_interrupts(unsigned long on)
{
    by_interrupt = on;
    set32(STATUS, on ? IRQ_WHEN_COMPUTED : 0);
}

static void be_patient(unsigned long milliseconds) { patience = milliseconds; }

static void compute(unsigned long number)
{
    set32(FACTORIAL, number);
    const char *how = completed(STATUS, COMPUTING, 0x001);
    printf("factorial %u %s\n", get32(FACTORIAL), how);
}

static void copy(const char *name, uint64_t source, uint64_t target, uint64_t count, uint64_t direction)
{
    set64(SOURCE, source);
    set64(TARGET, target);
    set64(COUNT, count);
    set64(COMMAND, START | direction | (by_interrupt ? IRQ_WHEN_COPIED : 0));
    printf("%s %s\n", name, completed(COMMAND, START, 0x100));
}

static void send(unsigned long count) { copy("send", address, BUFFER, count, 0); }
static void receive(unsigned long count) { copy("receive", BUFFER, address, count, TO_RAM); }

/* 0 is nothing but zeros. */
static unsigned char pattern(unsigned long seed, int at) { return (at + at / 256 + 1) * seed; }

static void fill(unsigned long seed)
{
    for (int at = 0; at < PAGE; at++)
        page[at] = pattern(seed, at);
}

static void compare(unsigned long seed)
{
    int at = 0;
    while (at < PAGE && page[at] == pattern(seed, at))
        at++;
    printf("compare %s %d\n", at < PAGE ? "differs at" : "same", at);
}

/* An address on the device's bus instead of the page's. */
static void use_address(unsigned long other) { address = other; }
static void raise_causes(unsigned long causes) { set32(RAISE, causes); }
static void acknowledge(unsigned long causes) { set32(ACKNOWLEDGE, causes); }
static void unmask_again(unsigned long unused) { unmask(); }
static void set_command(unsigned long value) { set_config(PCI_COMMAND, value, 2); }

static void wait_for_interrupts(unsigned long unused)
{
    unsigned long count = arrived();
    printf("arrived %lu cause %x\n", count, get32(IRQ));
}

/* What the kernel calls the interrupt that we hold. */
static void show_interrupt(unsigned long unused)
{
    char line[300];
    FILE *file = fopen("/proc/interrupts", "r");
    while (fgets(line, sizeof line, file))
        if (strstr(line, "uio_pci_generic") || strstr(line, "vfio-msi"))
            printf("kernel%s", strchr(line, ':'));
    fclose(file);
}

static const struct { const char *name; int arguments; void (*take)(unsigned long); } steps[] = {
    { "identity", 0, identity },
    { "invert", 1, invert },
    { "interrupts", 1, ask_for_interrupts },
    { "patience", 1, be_patient },
    { "factorial", 1, compute },
    { "fill", 1, fill },
    { "send", 1, send },
    { "receive", 1, receive },
    { "compare", 1, compare },
    { "address", 1, use_address },
    { "raise", 1, raise_causes },
    { "acknowledge", 1, acknowledge },
    { "unmask", 0, unmask_again },
    { "command", 1, set_command },
    { "wait", 0, wait_for_interrupts },
    { "kernel", 0, show_interrupt },
};

static char **take(char **words)
{
    for (int each = 0; each < sizeof steps / sizeof *steps; each++) {
        if (strcmp(*words, steps[each].name))
            continue;
        int arguments = steps[each].arguments;
        steps[each].take(arguments && words[1] ? strtoul(words[1], NULL, 0) : 0);
        fflush(stdout);
        return words + 1 + arguments;
    }
    errno = EINVAL;
    checked(0, *words);
    return words;
}

static void hold(const char *way)
{
    for (int each = 0; each < sizeof ways / sizeof *ways; each++)
        if (!strcmp(way, ways[each].name))
            ways[each].hold();
    errno = EINVAL;
    checked(bar != NULL, way);
    set32(STATUS, 0); /* nothing is left of an earlier program */
    set32(ACKNOWLEDGE, ~0);
    set_command(MEMORY_AND_MASTER);
}

int main(int count, char **words)
{
    if (count < 3)
        return 2;
    page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1, 0);
    checked(page != MAP_FAILED, "a locked page");
    find(atoi(words[2]));
    hold(words[1]);
    for (words += 3; *words;)
        words = take(words);
    return 0;
}

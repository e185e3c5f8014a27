/* Writes a register of the first edu below /sys/bus/pci as often as told, as fast as it can, and reads it back.
 *
 *     flood_program FOLDER TIMES
 *
 * FOLDER is the function's below /sys/bus/pci/devices. It prints what it read: edu's liveness register, the inverse of
 * what was written last.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PCI_COMMAND = 4, MEMORY = 2, LIVENESS = 4, BAR_SIZE = 1 << 20 };

int main(int argc, char **argv)
{
    char path[300];
    uint16_t command = MEMORY;
    volatile uint32_t *bar;
    int fd;
    if (argc != 3)
        return 2;
    snprintf(path, sizeof path, "%s/config", argv[1]);
    fd = open(path, O_RDWR);
    if (fd < 0 || pwrite(fd, &command, sizeof command, PCI_COMMAND) != sizeof command)
        return 3;
    snprintf(path, sizeof path, "%s/resource0", argv[1]);
    fd = open(path, O_RDWR);
    bar = mmap(0, BAR_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (bar == MAP_FAILED)
        return 4;
    for (uint32_t number = 1; number <= (uint32_t)atoi(argv[2]); number++)
        bar[LIVENESS / 4] = number;
    printf("%u\n", ~bar[LIVENESS / 4]);
    return 0;
}

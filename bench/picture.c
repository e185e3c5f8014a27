/* The limit of an update of a picture: memcpy between memory that two processes share, from a guest's in one piece
 * ("read"), and from pages of it that do not follow each other ("write").
 *
 * Usage: picture BYTES. Rounds are asked for on stdin (see latency.h).
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include <string.h>

#include "latency.h"

enum { GUESTS_PAGE = 4096 };

struct memories {
    char *guest, *device;
    size_t size;
};

static void copy_whole(void *context)
{
    struct memories *memories = context;
    memcpy(memories->device, memories->guest, memories->size);
    __asm__ volatile("" : : "r"(memories->device) : "memory");
}

static void copy_pages(void *context)
{
    struct memories *memories = context;
    for (size_t at = 0; at < memories->size; at += GUESTS_PAGE) {
        size_t left = memories->size - at;
        memcpy(memories->device + at, memories->guest + 2 * at, left < GUESTS_PAGE ? left : GUESTS_PAGE);
    }
    __asm__ volatile("" : : "r"(memories->device) : "memory");
}

static char *shared(size_t size)
{
    int fd = memfd_create("memory", 0);
    if (fd < 0 || ftruncate(fd, (off_t)size))
        die("memfd_create");
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        die("mmap");
    memset(memory, 1, size);
    return memory;
}

int main(int argc, char **argv)
{
    size_t size = argc == 2 ? strtoul(argv[1], NULL, 0) : 0;
    if (!size)
        die("picture BYTES");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct memories memories = {shared(2 * size), shared(size), size};
    serve_rounds(copy_whole, copy_pages, 0, &memories);
    return 0;
}

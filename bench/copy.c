/* The limit of DMA: memcpy out of a sealed memfd that is mapped and shared ("read"), and into it ("write").
 *
 * Usage: copy BYTES. Rounds are asked for on stdin (see latency.h).
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/prctl.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "latency.h"

struct copies {
    char *shared, *own;
    size_t size;
};

static void copy_in(void *context)
{
    struct copies *copies = context;
    memcpy(copies->own, copies->shared, copies->size);
    __asm__ volatile("" : : "r"(copies->own) : "memory"); /* or the compiler need not copy what nobody reads */
}

static void copy_out(void *context)
{
    struct copies *copies = context;
    memcpy(copies->shared, copies->own, copies->size);
    __asm__ volatile("" : : "r"(copies->shared) : "memory");
}

int main(int argc, char **argv)
{
    size_t size = argc == 2 ? strtoul(argv[1], NULL, 0) : 0;
    int fd = memfd_create("memory", MFD_ALLOW_SEALING);
    if (!size || fd < 0 || ftruncate(fd, (off_t)size) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK))
        die("copy BYTES");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct copies copies = {mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), malloc(size), size};
    if (copies.shared == MAP_FAILED || !copies.own)
        die("no memory");
    memset(copies.own, 1, size);
    memset(copies.shared, 2, size);
    serve_rounds(copy_in, copy_out, 0, &copies);
    return 0;
}

/* A guest's IOMMU at work: pages mapped one by one, each with a file descriptor of its own, and unmapped one by one.
 *
 * Usage: mappings SOCKET. Each line on stdin, a number of pages, is one round; the answer is one line of JSON with the
 * nanoseconds of all the maps and of all the unmaps. As QEMU does, some requests are sent before a reply is awaited.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/prctl.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "vfio_user.h"

enum { DMA_MAP = 2, DMA_UNMAP = 3, PAGE = 4096, PAGES = 256, UNANSWERED = 32, BOTH_WAYS = 3, BASE = 1 << 30 };

struct map {
    uint16_t id, command;
    uint32_t size, flags, error;
    uint32_t argsz, ways;
    uint64_t offset, address, length;
};

struct unmap {
    uint16_t id, command;
    uint32_t size, flags, error;
    uint32_t argsz, how;
    uint64_t address, length;
};

static void send_map(int fd, int memory, size_t page)
{
    struct map request = {.id = (uint16_t)page, .command = DMA_MAP, .size = sizeof(request), .ways = BOTH_WAYS,
                          .argsz = sizeof(request) - HEADER, .offset = page % PAGES * PAGE, .length = PAGE,
                          .address = BASE + page * PAGE};
    send_with_fd(fd, &request, sizeof(request), memory);
}

static void send_unmap(int fd, int memory, size_t page)
{
    (void)memory;
    struct unmap request = {.id = (uint16_t)page, .command = DMA_UNMAP, .size = sizeof(request), .length = PAGE,
                            .argsz = sizeof(request) - HEADER, .address = BASE + page * PAGE};
    if (send(fd, &request, sizeof(request), 0) != sizeof(request))
        die("send");
}

static uint64_t time_all(int fd, int memory, size_t pages, void (*ask)(int, int, size_t), uint16_t command)
{
    size_t payload = command == DMA_UNMAP ? sizeof(struct unmap) - HEADER : 0;
    uint64_t began = now_ns();
    for (size_t sent = 0, answered = 0; answered < pages; answered++) {
        while (sent < pages && sent < answered + UNANSWERED)
            ask(fd, memory, sent++);
        expect_success(fd, command, payload);
    }
    return now_ns() - began;
}

int main(int argc, char **argv)
{
    int memory = memfd_create("memory", MFD_ALLOW_SEALING);
    if (argc != 2 || memory < 0 || ftruncate(memory, PAGES * PAGE) || fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK))
        die("mappings SOCKET");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int fd = connect_to(argv[1]);
    negotiate(fd);
    size_t pages;
    while (scanf("%zu", &pages) == 1) {
        uint64_t map = time_all(fd, memory, pages, send_map, DMA_MAP);
        uint64_t unmap = time_all(fd, memory, pages, send_unmap, DMA_UNMAP);
        printf("{\"map\": %lu, \"unmap\": %lu}\n", (unsigned long)map, (unsigned long)unmap);
        fflush(stdout);
    }
    return 0;
}

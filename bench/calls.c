/* System calls that have nothing to do with devices, timed one by one: what `run` costs a program that it does not help.
 *
 * Usage: calls FILE; rounds are asked for on stdin, as in latency.h. FILE is opened and may be written.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "latency.h"

static const char *path;

static void call(void *unused)
{
    (void)unused;
    if (syscall(SYS_getppid) < 0)
        die("getppid");
}

static void other_ioctl(void *fds)
{
    int count;
    if (ioctl(*(int *)fds, FIONREAD, &count))
        die("ioctl");
}

static void open_and_close(int flags)
{
    int fd = open(path, flags);
    if (fd < 0)
        die(path);
    close(fd);
}

static void open_to_read(void *unused)
{
    (void)unused;
    open_and_close(O_RDONLY);
}

static void open_to_change(void *unused)
{
    (void)unused;
    open_and_close(O_RDWR);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        access_fn *call;
    } calls[] = {{"call", call}, {"ioctl", other_ioctl}, {"open_to_read", open_to_read}, {"open_to_change", open_to_change}};
    size_t count;
    int fds[2];
    if (argc != 2 || pipe(fds)) {
        fprintf(stderr, "usage: calls FILE\n");
        return 2;
    }
    path = argv[1];
    while (scanf("%zu", &count) == 1 && count && count <= 10000000) {
        alarm(LONGEST_ROUND);
        for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++) {
            printf(i ? ", " : "{");
            measure(calls[i].name, calls[i].call, NULL, fds, count);
        }
        printf("}\n");
        fflush(stdout);
        alarm(0);
    }
    return 0;
}

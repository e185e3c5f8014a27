/* Round trips timed one by one: what both programs share. A round's times are kept and sorted when it has ended. */
#ifndef LATENCY_H
#define LATENCY_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef REGISTER
#define REGISTER 1 /* bytes of the register that is accessed */
#endif

enum { READ_REQUEST = 32, READ_REPLY = 32 + REGISTER, WRITE_REQUEST = 32 + REGISTER, WRITE_REPLY = 32 };
enum { LONGEST_ROUND = 60 }; /* seconds */

typedef void access_fn(void *context);

static inline void die(const char *what)
{
    perror(what);
    exit(1);
}

static inline uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* One send and one receive, each of a whole message: anything else ends the program. */
static inline void round_trip(int fd, const void *request, size_t size, void *reply, size_t expected)
{
    if (send(fd, request, size, 0) != (ssize_t)size)
        die("send");
    if (recv(fd, reply, expected, 0) != (ssize_t)expected)
        die("recv");
}

static int by_time(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

/* Prints "NAME": {...} with the times in nanoseconds; "before" is called before each access, and not timed. */
static inline void measure(const char *name, access_fn *access, access_fn *before, void *context, size_t count)
{
    uint64_t *times = malloc(count * sizeof(*times));
    if (!times)
        die("malloc");
    for (size_t i = 0; i < count / 10; i++)
        access(context);
    for (size_t i = 0; i < count; i++) {
        if (before)
            before(context);
        uint64_t began = now_ns();
        access(context);
        times[i] = now_ns() - began;
    }
    qsort(times, count, sizeof(*times), by_time);
    printf("\"%s\": {\"p50\": %lu, \"p99\": %lu, \"min\": %lu, \"max\": %lu}", name, (unsigned long)times[count / 2],
           (unsigned long)times[count * 99 / 100], (unsigned long)times[0], (unsigned long)times[count - 1]);
    free(times);
}

/* Each line on stdin, the number of accesses, is one round; the answer is one line of JSON. Returns at the end.
 * Without a read access there are only writes. With "in_turn" each timed access is preceded by one of the other kind.
 */
static inline void serve_rounds(access_fn *read_access, access_fn *write_access, int in_turn, void *context)
{
    size_t count;
    while (scanf("%zu", &count) == 1) {
        if (!count || count > 10000000) {
            fprintf(stderr, "expected 1 to 10000000 accesses, given %zu\n", count);
            exit(2);
        }
        alarm(LONGEST_ROUND); /* a peer that never answers ends the program, not the benchmark's patience */
        printf("{");
        if (read_access) {
            measure("read", read_access, in_turn ? write_access : NULL, context, count);
            printf(", ");
        }
        measure("write", write_access, in_turn ? read_access : NULL, context, count);
        printf("}\n");
        fflush(stdout);
        alarm(0);
    }
}

#endif

/* Many clients at once, each with an mdev of its own, each a process in a closed loop of reads and writes.
 *
 * Usage: crowd OFFSET CORE SOCKET [CORE SOCKET]... connects to every socket; its client stays on that core. Each line
 * on stdin, a number of milliseconds, is one round: all clients begin together and end after that time. The answer is
 * one line of JSON: accesses of all of them, of the slowest and of the fastest, and the times of one access.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "vfio_user.h"

enum { FINE = 16, BUCKETS = 64 * FINE }; /* sixteen classes of times to each power of two: within 6 % */

struct tally {
    uint64_t accesses;
    uint32_t times[BUCKETS];
};

struct shared {
    uint64_t end;
    struct tally of[];
};

struct member {
    struct client client;
    int core;
};

static size_t bucket_of(uint64_t time)
{
    unsigned int power = 63 - (unsigned int)__builtin_clzll(time | FINE);
    return power * FINE + ((time >> (power - 4)) & (FINE - 1));
}

static uint64_t time_of(size_t bucket)
{
    return (uint64_t)(FINE + bucket % FINE) << (bucket / FINE - 4);
}

static void access_until(struct client *client, const struct shared *shared, struct tally *tally)
{
    for (uint64_t began = now_ns(), ended; began < shared->end; began = ended) {
        tally->accesses++ % 2 ? write_access(client) : read_access(client);
        ended = now_ns();
        tally->times[bucket_of(ended - began)]++;
    }
}

static void stay_on(int core)
{
    cpu_set_t own;
    CPU_ZERO(&own);
    CPU_SET(core, &own);
    if (sched_setaffinity(0, sizeof(own), &own))
        die("sched_setaffinity");
}

/* The gate is a pipe that nobody writes to: its end of file is seen by all clients at once. */
static void be_client(int *gate, struct member *member, struct shared *shared, struct tally *tally)
{
    char nothing;
    stay_on(member->core);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(gate[1]);
    if (read(gate[0], &nothing, 1) != 0)
        die("the gate");
    access_until(&member->client, shared, tally);
    _exit(0);
}

static uint64_t percentile(const uint64_t *times, uint64_t accesses, unsigned int percent)
{
    uint64_t before = 0;
    for (size_t bucket = 0; bucket < BUCKETS; bucket++)
        if ((before += times[bucket]) * 100 >= accesses * percent)
            return time_of(bucket);
    return 0;
}

static void report(const struct shared *shared, size_t clients)
{
    uint64_t all = 0, least = UINT64_MAX, most = 0, times[BUCKETS] = {0};
    for (size_t i = 0; i < clients; i++) {
        uint64_t own = shared->of[i].accesses;
        all += own;
        least = own < least ? own : least;
        most = own > most ? own : most;
        for (size_t bucket = 0; bucket < BUCKETS; bucket++)
            times[bucket] += shared->of[i].times[bucket];
    }
    printf("{\"all\": %lu, \"least\": %lu, \"most\": %lu, \"p50\": %lu, \"p99\": %lu}\n", (unsigned long)all,
           (unsigned long)least, (unsigned long)most, (unsigned long)percentile(times, all, 50),
           (unsigned long)percentile(times, all, 99));
    fflush(stdout);
}

static void run(struct member *members, size_t count, struct shared *shared, size_t size, uint64_t milliseconds)
{
    int gate[2], status;
    memset(shared, 0, size);
    if (pipe(gate))
        die("pipe");
    for (size_t i = 0; i < count; i++) {
        pid_t child = fork();
        if (child < 0)
            die("fork");
        if (child == 0)
            be_client(gate, &members[i], shared, &shared->of[i]);
    }
    shared->end = now_ns() + milliseconds * 1000000;
    close(gate[0]);
    close(gate[1]);
    for (size_t i = 0; i < count; i++)
        if (wait(&status) < 0 || status)
            refuse("a client failed");
    report(shared, count);
}

int main(int argc, char **argv)
{
    if (argc < 4 || argc % 2) {
        fprintf(stderr, "usage: crowd OFFSET CORE SOCKET [CORE SOCKET]...\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    size_t count = (size_t)argc / 2 - 1, size = sizeof(struct shared) + count * sizeof(struct tally);
    struct shared *shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct member *members = calloc(count, sizeof(*members));
    if (shared == MAP_FAILED || !members)
        die("no memory");
    for (size_t i = 0; i < count; i++) {
        members[i] = (struct member){.core = atoi(argv[2 * i + 2]), .client.fd = connect_to(argv[2 * i + 3]),
                                     .client.offset = strtoul(argv[1], NULL, 0)};
        negotiate(members[i].client.fd);
    }
    uint64_t milliseconds;
    while (scanf("%lu", &milliseconds) == 1)
        run(members, count, shared, size, milliseconds);
    return 0;
}

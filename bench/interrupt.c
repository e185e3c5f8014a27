/* From a doorbell to the interrupt that a job of the device fires: a write, its reply, and a read of the eventfd.
 *
 * Usage: interrupt SOCKET OFFSET for a vfio-user device whose register at OFFSET of region 0 rings; its interrupt is
 * MSI vector 0. Usage: interrupt CORE, for the limit: another process, on that core, that looks at nothing, in which
 * one thread answers and wakes a second one, and that one writes to the eventfd. Rounds are asked for on stdin (see
 * latency.h).
 */
#define _GNU_SOURCE
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "vfio_user.h"

enum { SET_IRQS = 8, MSI = 1, EVENTFDS_TO_TRIGGER = 0x24, CONFIG = 7, COMMAND = 4, BUS_MASTER = 6 };

struct ringer {
    struct client client;
    int eventfd;
};

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    unsigned long rung;
} bell = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};

static void *job_thread(void *context)
{
    pthread_mutex_lock(&bell.mutex);
    while (1) {
        while (!bell.rung)
            pthread_cond_wait(&bell.changed, &bell.mutex);
        bell.rung--;
        pthread_mutex_unlock(&bell.mutex);
        if (eventfd_write(*(int *)context, 1))
            die("eventfd_write");
        pthread_mutex_lock(&bell.mutex);
    }
    return NULL;
}

static void be_limit(int fd, int eventfd, int core)
{
    char message[WRITE_REQUEST];
    pthread_t job;
    cpu_set_t own;
    CPU_ZERO(&own);
    CPU_SET(core, &own);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (sched_setaffinity(0, sizeof(own), &own) || pthread_create(&job, NULL, job_thread, &eventfd))
        die("the limit's threads");
    while (recv(fd, message, sizeof(message), 0) == WRITE_REQUEST) {
        pthread_mutex_lock(&bell.mutex);
        bell.rung++;
        pthread_cond_signal(&bell.changed);
        pthread_mutex_unlock(&bell.mutex);
        if (send(fd, message, WRITE_REPLY, 0) != WRITE_REPLY)
            die("send");
    }
    exit(0);
}

static int start_limit(int eventfd, int core)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
        die("socketpair");
    pid_t child = fork();
    if (child < 0)
        die("fork");
    if (child == 0) {
        close(ends[0]);
        be_limit(ends[1], eventfd, core);
    }
    close(ends[1]);
    return ends[0];
}

static void arm(int fd, int eventfd)
{
    struct {
        uint16_t id, command;
        uint32_t size, flags, error;
        uint32_t argsz, how, index, start, count;
    } request = {.command = SET_IRQS, .size = sizeof(request), .argsz = sizeof(request) - HEADER,
                 .how = EVENTFDS_TO_TRIGGER, .index = MSI, .count = 1};
    send_with_fd(fd, &request, sizeof(request), eventfd);
    expect_success(fd, SET_IRQS, 0);
}

/* A function that is not bus master sends no messages. */
static void make_bus_master(int fd)
{
    struct client config = {.fd = fd, .region = CONFIG, .offset = COMMAND, .value = BUS_MASTER - 0x01010101};
    write_access(&config);
}

static void ring(const struct ringer *ringer, struct message *request, struct message *reply)
{
    eventfd_t fired;
    round_trip(ringer->client.fd, request, WRITE_REQUEST, reply, WRITE_REPLY);
    if (eventfd_read(ringer->eventfd, &fired) || fired != 1)
        refuse("expected one interrupt");
}

static void ring_limit(void *context)
{
    struct ringer *ringer = context;
    struct message request = request_of(&ringer->client, REGION_WRITE, WRITE_REQUEST), reply;
    ring(ringer, &request, &reply);
}

static void ring_device(void *context)
{
    struct ringer *ringer = context;
    struct message request = request_of(&ringer->client, REGION_WRITE, WRITE_REQUEST), reply;
    ring(ringer, &request, &reply);
    check(&request, &reply, WRITE_REPLY);
}

int main(int argc, char **argv)
{
    struct ringer ringer = {.eventfd = eventfd(0, 0)};
    if (ringer.eventfd < 0)
        die("eventfd");
    if (argc == 2) {
        ringer.client.fd = start_limit(ringer.eventfd, atoi(argv[1]));
        serve_rounds(NULL, ring_limit, 0, &ringer);
        return 0;
    }
    if (argc != 3)
        refuse("usage: interrupt CORE, or interrupt SOCKET OFFSET");
    ringer.client = (struct client){.fd = connect_to(argv[1]), .offset = strtoul(argv[2], NULL, 0)};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    negotiate(ringer.client.fd);
    make_bus_master(ringer.client.fd);
    arm(ringer.client.fd, ringer.eventfd);
    serve_rounds(NULL, ring_device, 0, &ringer);
    return 0;
}

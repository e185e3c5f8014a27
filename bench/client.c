/* A vfio-user client that does 1-byte accesses to one register and checks every reply.
 *
 * Usage: client SOCKET REGION OFFSET MODE [OFFSET VALUE]... The values are written first. Modes: "keeps", "computed"
 * and "echoes" do rounds that are asked for on stdin (see latency.h), on a register that keeps what is written to it
 * (which is checked first), on one that does not, and on one where each timed access is preceded by one of the other
 * kind that is not timed; "busy" accesses without end and prints nothing.
 */
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <signal.h>
#include <sys/un.h>

#include "latency.h"

enum { VERSION = 1, REGION_READ = 9, REGION_WRITE = 10, REPLY = 1, REGISTER = 1 };

struct message {
    uint16_t id, command;
    uint32_t size, flags, error;
    uint64_t offset;
    uint32_t region, count;
    uint8_t data;
} __attribute__((packed));
_Static_assert(sizeof(struct message) == WRITE_REQUEST, "a message with the byte of a register");

struct client {
    int fd;
    uint16_t id;
    uint32_t region;
    uint64_t offset;
    uint8_t value;
};

static void refuse(const char *what)
{
    fprintf(stderr, "client: %s\n", what);
    exit(1);
}

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        refuse("the socket's path is too long");
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)))
        die(path);
    return fd;
}

static void negotiate(int fd)
{
    static const char json[] = "{\"capabilities\":{\"max_msg_fds\":1}}";
    char request[16 + 4 + sizeof(json)] = {0}, reply[1024];
    struct message head = {.command = VERSION, .size = sizeof(request)};
    memcpy(request, &head, 16);
    memcpy(request + 20, json, sizeof(json));
    if (send(fd, request, sizeof(request), 0) != (ssize_t)sizeof(request))
        die("send");
    if (recv(fd, reply, sizeof(reply), 0) < 20)
        die("recv of the version");
    memcpy(&head, reply, 16);
    if (head.command != VERSION || head.flags != REPLY)
        refuse("the version was refused");
}

static struct message request_of(struct client *client, uint16_t command, uint32_t size)
{
    return (struct message){.id = ++client->id, .command = command, .size = size, .offset = client->offset,
                            .region = client->region, .count = REGISTER};
}

static void check(const struct message *request, const struct message *reply, uint32_t size)
{
    if (reply->id != request->id || reply->command != request->command || reply->size != size ||
        reply->flags != REPLY || reply->offset != request->offset || reply->count != REGISTER)
        refuse("an access was refused");
}

static void read_access(void *context)
{
    struct client *client = context;
    struct message request = request_of(client, REGION_READ, READ_REQUEST), reply;
    round_trip(client->fd, &request, READ_REQUEST, &reply, READ_REPLY);
    check(&request, &reply, READ_REPLY);
    client->value = reply.data;
}

static void write_access(void *context)
{
    struct client *client = context;
    struct message request = request_of(client, REGION_WRITE, WRITE_REQUEST), reply;
    request.data = ++client->value;
    round_trip(client->fd, &request, WRITE_REQUEST, &reply, WRITE_REPLY);
    check(&request, &reply, WRITE_REPLY);
}

/* What the measured accesses reach is a register: it gives back what it was given. */
static void check_register(struct client *client)
{
    client->value = 0x5A - 1;
    write_access(client);
    client->value = 0;
    read_access(client);
    if (client->value != 0x5A)
        refuse("the register did not keep what was written");
}

/* Write the values of the command line to their registers. */
static void prepare(const struct client *client, char **pairs)
{
    for (; pairs[0] && pairs[1]; pairs += 2) {
        struct client other = *client;
        other.offset = strtoul(pairs[0], NULL, 0);
        other.value = (uint8_t)(strtoul(pairs[1], NULL, 0) - 1);
        write_access(&other);
    }
}

int main(int argc, char **argv)
{
    if (argc < 5 || argc % 2 == 0) {
        fprintf(stderr, "usage: client SOCKET REGION OFFSET keeps|computed|echoes|busy [OFFSET VALUE]...\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct client client = {.fd = connect_to(argv[1]), .region = (uint32_t)atoi(argv[2]),
                            .offset = strtoul(argv[3], NULL, 0)};
    negotiate(client.fd);
    prepare(&client, argv + 5);
    if (!strcmp(argv[4], "keeps"))
        check_register(&client);
    while (!strcmp(argv[4], "busy")) {
        read_access(&client);
        write_access(&client);
    }
    serve_rounds(read_access, write_access, !strcmp(argv[4], "echoes"), &client);
    return 0;
}

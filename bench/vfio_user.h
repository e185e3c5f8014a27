/* What the clients have in common: the connection, its negotiation, messages with a file descriptor, and accesses to
 * one register, which are checked. */
#ifndef VFIO_USER_H
#define VFIO_USER_H

#include <string.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "latency.h"

enum { VERSION = 1, REGION_READ = 9, REGION_WRITE = 10, REPLY = 1, HEADER = 16 };

struct message {
    uint16_t id, command;
    uint32_t size, flags, error;
    uint64_t offset;
    uint32_t region, count;
    uint8_t data[REGISTER];
} __attribute__((packed));
_Static_assert(sizeof(struct message) == WRITE_REQUEST, "a message with the bytes of a register");

struct client {
    int fd;
    uint16_t id;
    uint32_t region;
    uint64_t offset;
    uint32_t value;
};

static inline void refuse(const char *what)
{
    fprintf(stderr, "client: %s\n", what);
    exit(1);
}

static inline int connect_to(const char *path)
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

static inline void negotiate(int fd)
{
    static const char json[] = "{\"capabilities\":{\"max_msg_fds\":1}}";
    char request[HEADER + 4 + sizeof(json)] = {0}, reply[1024];
    struct message head = {.command = VERSION, .size = sizeof(request)};
    memcpy(request, &head, HEADER);
    memcpy(request + HEADER + 4, json, sizeof(json));
    if (send(fd, request, sizeof(request), 0) != (ssize_t)sizeof(request))
        die("send");
    if (recv(fd, reply, sizeof(reply), 0) < HEADER + 4)
        die("recv of the version");
    memcpy(&head, reply, HEADER);
    if (head.command != VERSION || head.flags != REPLY)
        refuse("the version was refused");
}

/* A message, whole, with one file descriptor. */
static inline void send_with_fd(int fd, void *request, size_t size, int passed)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec bytes = {.iov_base = request, .iov_len = size};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    control.head.cmsg_len = CMSG_LEN(sizeof(int));
    control.head.cmsg_level = SOL_SOCKET;
    control.head.cmsg_type = SCM_RIGHTS;
    memcpy(CMSG_DATA(&control.head), &passed, sizeof(int));
    if (sendmsg(fd, &message, 0) != (ssize_t)size)
        die("sendmsg");
}

/* Wait for a reply of which only its success counts, with all of its payload. */
static inline void expect_success(int fd, uint16_t command, size_t payload)
{
    struct message reply;
    char rest[64];
    if (recv(fd, &reply, HEADER, MSG_WAITALL) != HEADER || reply.command != command || reply.flags != REPLY)
        refuse("a request was refused");
    if (payload && recv(fd, rest, payload, MSG_WAITALL) != (ssize_t)payload)
        die("recv");
}

static inline struct message request_of(struct client *client, uint16_t command, uint32_t size)
{
    return (struct message){.id = ++client->id, .command = command, .size = size, .offset = client->offset,
                            .region = client->region, .count = REGISTER};
}

static inline void check(const struct message *request, const struct message *reply, uint32_t size)
{
    if (reply->id != request->id || reply->command != request->command || reply->size != size ||
        reply->flags != REPLY || reply->offset != request->offset || reply->count != REGISTER)
        refuse("an access was refused");
}

static inline void read_access(void *context)
{
    struct client *client = context;
    struct message request = request_of(client, REGION_READ, READ_REQUEST), reply;
    round_trip(client->fd, &request, READ_REQUEST, &reply, READ_REPLY);
    check(&request, &reply, READ_REPLY);
    client->value = 0;
    memcpy(&client->value, reply.data, REGISTER);
}

static inline void write_access(void *context)
{
    struct client *client = context;
    struct message request = request_of(client, REGION_WRITE, WRITE_REQUEST), reply;
    client->value += 0x01010101; /* every byte of the register changes */
    memcpy(request.data, &client->value, REGISTER);
    round_trip(client->fd, &request, WRITE_REQUEST, &reply, WRITE_REPLY);
    check(&request, &reply, WRITE_REPLY);
}

#endif

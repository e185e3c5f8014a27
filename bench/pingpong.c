/* The physical limit: two processes and a socket, messages as large as a register's REGION_READ and REGION_WRITE.
 *
 * The echoing process does one receive and one send a message and looks at nothing. Usage: pingpong
 */
#include <sys/prctl.h>
#include <signal.h>
#include <unistd.h>

#include "latency.h"

static void echo(int fd)
{
    char message[64] = {0};
    ssize_t got;
    while ((got = recv(fd, message, sizeof(message), 0)) > 0) {
        size_t reply = got == READ_REQUEST ? READ_REPLY : WRITE_REPLY;
        if (send(fd, message, reply, 0) != (ssize_t)reply)
            die("send");
    }
}

static void read_access(void *context)
{
    char request[READ_REQUEST] = {0}, reply[READ_REPLY];
    round_trip(*(int *)context, request, sizeof(request), reply, sizeof(reply));
}

static void write_access(void *context)
{
    char request[WRITE_REQUEST] = {0}, reply[WRITE_REPLY];
    round_trip(*(int *)context, request, sizeof(request), reply, sizeof(reply));
}

int main(void)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
        die("socketpair");
    pid_t child = fork();
    if (child < 0)
        die("fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(ends[0]);
        echo(ends[1]);
        return 0;
    }
    close(ends[1]);
    serve_rounds(read_access, write_access, 0, &ends[0]);
    return 0;
}

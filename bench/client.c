/* A vfio-user client that accesses one register and checks every reply.
 *
 * Usage: client SOCKET REGION OFFSET MODE [OFFSET VALUE]... The values are written first. Modes: "keeps", "computed"
 * and "echoes" do rounds that are asked for on stdin (see latency.h), on a register that keeps what is written to it
 * (which is checked first), on one that does not, and on one where each timed access is preceded by one of the other
 * kind that is not timed; "busy" accesses without end and prints nothing.
 */
#include <sys/prctl.h>
#include <signal.h>

#include "vfio_user.h"

static const uint32_t every_byte = (uint32_t)(0x01010101u & ((1ull << 8 * REGISTER) - 1));

/* What the measured accesses reach is a register: it gives back what it was given. */
static void check_register(struct client *client)
{
    client->value = 0x59 * every_byte;
    write_access(client);
    client->value = 0;
    read_access(client);
    if (client->value != 0x5A * every_byte)
        refuse("the register did not keep what was written");
}

/* Write the values of the command line to their registers. */
static void prepare(const struct client *client, char **pairs)
{
    for (; pairs[0] && pairs[1]; pairs += 2) {
        struct client other = *client;
        other.offset = strtoul(pairs[0], NULL, 0);
        other.value = (uint32_t)strtoul(pairs[1], NULL, 0) - 0x01010101;
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

/* A trapped access, which the server answers to the program that made it (messages/traps.py). */
#ifndef TRAPPED_H
#define TRAPPED_H

#include "plain_table.h"

enum { TRAPPED_READ = 0x8001, TRAPPED_WRITE = 0x8002, NO_REPLY = 0x10, ERROR = 0x20 };

struct trapped {
    struct message access; /* the data of a read: not used */
    uint64_t call, address;
} __attribute__((packed));

#endif

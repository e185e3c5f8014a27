/* The table of a device's plain registers, and the messages that it answers. */
#ifndef PLAIN_TABLE_H
#define PLAIN_TABLE_H

#include "step_lock.h"

#include <stddef.h>

enum { READ = 9, WRITE = 10, REPLY = 1, REGISTER = 8 };

/* A REGION_READ or REGION_WRITE, or the reply to one, with the data of a register at most. */
struct message {
    uint16_t id, command;
    uint32_t size, flags, error;
    uint64_t offset;
    uint32_t region, count;
    uint8_t data[REGISTER];
} __attribute__((packed));
enum { HEAD = offsetof(struct message, data) };

/* Rows by place: open addressing in a power of two of slots, at most half of them used. */
struct rows {
    struct row *slots;
    size_t last; /* number of slots, less one */
};

typedef struct {
    PyObject_HEAD
    StepLock *lock;
    struct rows reads, writes;
    Py_buffer *values; /* what the rows point into; a buffer that is held neither moves nor shrinks */
    Py_ssize_t held;
    unsigned long long read_count, write_count;
} PlainTable;

extern PyTypeObject PlainTableType;

/* Answer from the table, under its step lock. Returns the reply's size, 0 if the table has no row. */
size_t answer(PlainTable *table, const struct message *message, struct message *reply);

#endif

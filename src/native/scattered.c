/* Copying between a stretch of memory and pieces of a guest's, which lie here and there in one mapping.
 *
 * vfio/scatter_list.py and vfio_user/scattered.py have the same in Python, which is what there is without a compiler. What
 * is copied is held as buffers: whoever else has the interpreter's lock meanwhile can neither unmap nor resize it. The
 * entries are a bytes object, which nobody changes; what they say is the guest's, and is believed nowhere. */
#include "scattered.h"

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Bytes. So many take 2 us; to let other threads run instead is not worth it below. */
enum { MUCH = 16 << 10 };

struct entry {
    uint64_t address;
    uint32_t length, unused;
};

/* A walk over the pieces of a part of a list: `address` and `length` are of the one that it is at. */
struct walk {
    const char *entry, *end;
    uint64_t skipped, left;
    uint64_t address, length;
};

struct list {
    Py_buffer entries;
    Py_ssize_t first;
    unsigned long long skipped, size;
};

/* The part of the memory that is a mapping's, and the guest's address of its first byte. */
struct place {
    char *bytes;
    uint64_t base, size;
};

static struct walk walk_of(const struct list *list)
{
    const char *entries = list->entries.buf;
    const Py_ssize_t count = list->entries.len / (Py_ssize_t)sizeof(struct entry);
    const Py_ssize_t first = list->first < 0 || list->first > count ? count : list->first;
    return (struct walk){.entry = entries + first * (Py_ssize_t)sizeof(struct entry),
                         .end = entries + count * (Py_ssize_t)sizeof(struct entry),
                         .skipped = list->skipped, .left = list->size};
}

/* To the next piece that is not empty; false behind the last one. */
static bool step(struct walk *walk)
{
    while (walk->left && walk->entry < walk->end) {
        struct entry entry;
        memcpy(&entry, walk->entry, sizeof(entry));
        walk->entry += sizeof(entry);
        const uint64_t length = le32toh(entry.length), skipped = walk->skipped;
        walk->skipped = 0;
        if (length <= skipped)
            continue;
        walk->address = le64toh(entry.address) + skipped;
        walk->length = length - skipped < walk->left ? length - skipped : walk->left;
        walk->left -= walk->length;
        if (walk->address < skipped) /* it lies behind all memory, not at its beginning */
            walk->length = UINT64_MAX;
        return true;
    }
    return false;
}

/* Whether all of the piece is in the place. */
static bool lies_in(const struct walk *walk, const struct place *place)
{
    const uint64_t offset = walk->address - place->base;
    return walk->address >= place->base && offset <= place->size && walk->length <= place->size - offset;
}

static uint64_t copy_in(struct walk walk, const struct place *place, char *to)
{
    const char *start = to;
    for (; step(&walk) && lies_in(&walk, place); to += walk.length)
        memmove(to, place->bytes + (walk.address - place->base), walk.length);
    return (uint64_t)(to - start);
}

static uint64_t copy_out(struct walk walk, const struct place *place, const char *from)
{
    const char *start = from;
    for (; step(&walk) && lies_in(&walk, place); from += walk.length)
        memmove(place->bytes + (walk.address - place->base), from, walk.length);
    return (uint64_t)(from - start);
}

PyObject *within(PyObject *self, PyObject *arguments)
{
    (void)self;
    struct list list;
    unsigned long long base, size;
    if (!PyArg_ParseTuple(arguments, "y*nKKKK:within", &list.entries, &list.first, &list.skipped, &list.size, &base, &size))
        return NULL;
    const struct place place = {NULL, base, size};
    uint64_t found = 0;
    for (struct walk walk = walk_of(&list); step(&walk) && lies_in(&walk, &place);)
        found += walk.length;
    PyBuffer_Release(&list.entries);
    return PyLong_FromUnsignedLongLong(found);
}

/* What gather and scatter have in common; `stretch` is as their last argument, and written to by gather. */
static PyObject *copy(PyObject *arguments, const char *form, bool in)
{
    Py_buffer memory, stretch;
    struct list list;
    Py_ssize_t low, high;
    unsigned long long base;
    if (!PyArg_ParseTuple(arguments, form, &memory, &low, &high, &base, &list.entries, &list.first, &list.skipped,
                          &list.size, &stretch))
        return NULL;
    uint64_t copied = 0;
    const bool sound = 0 <= low && low <= high && high <= memory.len && list.size <= (uint64_t)stretch.len;
    if (sound) {
        const struct place place = {(char *)memory.buf + low, base, (uint64_t)(high - low)};
        PyThreadState *thread = list.size < MUCH ? NULL : PyEval_SaveThread();
        copied = (in ? copy_in(walk_of(&list), &place, stretch.buf) : copy_out(walk_of(&list), &place, stretch.buf));
        if (thread)
            PyEval_RestoreThread(thread);
    } else
        PyErr_SetString(PyExc_ValueError, "expected a part of the memory, and a stretch as long as the pieces");
    PyBuffer_Release(&memory);
    PyBuffer_Release(&list.entries);
    PyBuffer_Release(&stretch);
    return sound ? PyLong_FromUnsignedLongLong(copied) : NULL;
}

PyObject *gather(PyObject *self, PyObject *arguments)
{
    (void)self;
    return copy(arguments, "y*nnKy*nKKw*:gather", true);
}

PyObject *scatter(PyObject *self, PyObject *arguments)
{
    (void)self;
    return copy(arguments, "w*nnKy*nKKy*:scatter", false);
}

/* The table of a device's plain registers: filled by Python, under the step lock, and read by the loop under it. */
#include "plain_table.h"

#include <endian.h>
#include <string.h>
#include <structmember.h>

/* An access and what it does (vfio/plain.py). A read shifts and masks by "store"; the other masks are a write's. */
struct row {
    uint64_t offset;
    uint32_t region, count;
    uint64_t *value; /* NULL: no row */
    uint64_t keep, store, clear, put;
    unsigned shift;
};

static struct row *slot_of(const struct rows *rows, uint64_t offset, uint32_t region, uint32_t count)
{
    uint64_t hash = (offset ^ (uint64_t)region << 40 ^ (uint64_t)count << 56) * 0x9E3779B97F4A7C15ull;
    for (size_t at = hash >> 32 & rows->last;; at = (at + 1) & rows->last) {
        struct row *row = &rows->slots[at];
        if (!row->value || (row->offset == offset && row->region == region && row->count == count))
            return row;
    }
}

static const struct row *find(const struct rows *rows, const struct message *message)
{
    const struct row *row = rows->slots ? slot_of(rows, message->offset, message->region, message->count) : NULL;
    return row && row->value ? row : NULL;
}

size_t answer(PlainTable *table, const struct message *message, struct message *reply)
{
    const bool reads = message->command == READ;
    const struct row *row = find(reads ? &table->reads : &table->writes, message);
    if (!row)
        return 0;
    memcpy(reply, message, HEAD);
    reply->flags = REPLY;
    reply->error = 0;
    reply->size = HEAD + (reads ? row->count : 0);
    if (reads) {
        const uint64_t value = htole64(*row->value >> row->shift & row->store);
        memcpy(reply->data, &value, row->count);
        table->read_count++;
    } else {
        uint64_t given = 0;
        memcpy(&given, message->data, row->count);
        given = le64toh(given) << row->shift;
        *row->value = ((*row->value & row->keep) | (given & row->store)) & ~(given & row->clear);
        *row->value |= given & row->put;
        table->write_count++;
    }
    return reply->size;
}

static void forget(PlainTable *self)
{
    for (Py_ssize_t i = 0; i < self->held; i++)
        PyBuffer_Release(&self->values[i]);
    PyMem_Free(self->values);
    PyMem_Free(self->reads.slots);
    PyMem_Free(self->writes.slots);
    memset(&self->reads, 0, sizeof(self->reads));
    memset(&self->writes, 0, sizeof(self->writes));
    self->values = NULL;
    self->held = 0;
}

/* Hold the buffer of "values" unless it is held already, which the last one mostly is. */
static Py_buffer *hold(PlainTable *self, PyObject *values)
{
    for (Py_ssize_t i = self->held; i-- > 0;)
        if (self->values[i].obj == values)
            return &self->values[i];
    Py_buffer *all = PyMem_Realloc(self->values, (self->held + 1) * sizeof(*all));
    if (!all)
        return (Py_buffer *)PyErr_NoMemory();
    self->values = all;
    if (PyObject_GetBuffer(values, &all[self->held], PyBUF_CONTIG | PyBUF_FORMAT))
        return NULL;
    return &all[self->held++];
}

/* One of PlainRead (7 fields) or PlainWrite (10). */
static bool add(PlainTable *self, struct rows *rows, PyObject *fields)
{
    struct row row = {0};
    PyObject *values;
    Py_ssize_t number;
    if (!PyArg_ParseTuple(fields, "IKIOnIK|KKK", &row.region, &row.offset, &row.count, &values, &number, &row.shift,
                          &row.keep, &row.store, &row.clear, &row.put))
        return false;
    if (PyTuple_GET_SIZE(fields) == 7)
        row.store = row.keep;
    Py_buffer *buffer = hold(self, values);
    if (!buffer)
        return false;
    if (strcmp(buffer->format, "Q") || (uintptr_t)buffer->buf % sizeof(uint64_t) || number < 0 ||
        number >= buffer->len / (Py_ssize_t)sizeof(uint64_t) || !row.count || row.count > REGISTER || row.shift > 63) {
        PyErr_SetString(PyExc_ValueError, "a plain register is one of an array('Q'), 1 to 8 bytes, shifted by 0 to 63");
        return false;
    }
    row.value = (uint64_t *)buffer->buf + number;
    *slot_of(rows, row.offset, row.region, row.count) = row;
    return true;
}

static bool add_all(PlainTable *self, struct rows *rows, PyObject *given)
{
    PyObject *all = PySequence_Tuple(given);
    if (!all)
        return false;
    const Py_ssize_t count = PyTuple_GET_SIZE(all);
    size_t slots = 16;
    while (slots < 2 * (size_t)count)
        slots *= 2;
    rows->slots = PyMem_Calloc(slots, sizeof(struct row));
    rows->last = slots - 1;
    bool done = rows->slots || PyErr_NoMemory();
    for (Py_ssize_t i = 0; done && i < count; i++)
        done = PyTuple_Check(PyTuple_GET_ITEM(all, i)) ? add(self, rows, PyTuple_GET_ITEM(all, i))
                                                       : (PyErr_SetString(PyExc_TypeError, "expected tuples"), false);
    Py_DECREF(all);
    return done;
}

static bool is_locked_by_me(PlainTable *self)
{
    if (!is_mine(self->lock))
        PyErr_SetString(PyExc_RuntimeError, "a table changes under its step lock only");
    return is_mine(self->lock);
}

static PyObject *table_fill(PlainTable *self, PyObject *args)
{
    PyObject *reads, *writes;
    if (!PyArg_ParseTuple(args, "OO:fill", &reads, &writes) || !is_locked_by_me(self))
        return NULL;
    PlainTable made = {0}; /* what is iterated runs code of its own, so the table stays whole until the end */
    bool done = add_all(&made, &made.reads, reads) && add_all(&made, &made.writes, writes) && is_locked_by_me(self);
    if (done) {
        PlainTable old = {.reads = self->reads, .writes = self->writes, .values = self->values, .held = self->held};
        self->reads = made.reads, self->writes = made.writes, self->values = made.values, self->held = made.held;
        made = old;
    }
    forget(&made);
    return done ? Py_NewRef(Py_None) : NULL;
}

static PyObject *table_clear(PlainTable *self, PyObject *Py_UNUSED(none))
{
    if (!is_locked_by_me(self))
        return NULL;
    forget(self);
    Py_RETURN_NONE;
}

static PyObject *table_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"lock", NULL};
    PyObject *lock;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!:PlainTable", names, &StepLockType, &lock))
        return NULL;
    PlainTable *self = (PlainTable *)type->tp_alloc(type, 0);
    if (self)
        self->lock = (StepLock *)Py_NewRef(lock);
    return (PyObject *)self;
}

static void table_dealloc(PlainTable *self)
{
    forget(self);
    Py_XDECREF(self->lock);
    Py_TYPE(self)->tp_free(self);
}

static PyMethodDef table_methods[] = {
    {"fill", (PyCFunction)table_fill, METH_VARARGS, NULL},
    {"clear", (PyCFunction)table_clear, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyMemberDef table_members[] = {
    {"lock", T_OBJECT_EX, offsetof(PlainTable, lock), READONLY, NULL},
    {"reads", T_ULONGLONG, offsetof(PlainTable, read_count), READONLY, NULL},
    {"writes", T_ULONGLONG, offsetof(PlainTable, write_count), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};
PyTypeObject PlainTableType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mdev_user.vfio_user._native.PlainTable",
    .tp_doc = "The plain registers of a device (`mdev_user.vfio.plain`) as the native loop finds them.",
    .tp_basicsize = sizeof(PlainTable),
    .tp_new = table_new,
    .tp_dealloc = (destructor)table_dealloc,
    .tp_methods = table_methods,
    .tp_members = table_members,
};

/* The supervisor's receiver: it has a program's small accesses to regions performed without Python, and returns all other
 * system calls, as seccomp told them, to Python.
 *
 * It does what region_client.py does, which stays the reference, for one system call of one kind: pread64 or pwrite64 of
 * 1 to 8 bytes within a region, on a file descriptor that Python has looked at within the last second (Receiver.remember).
 * Where the server ends the program's calls itself (messages/traps.py) the access is handed on, and nothing is waited for.
 * Elsewhere it is begun only when nobody else uses the device's connection. What comes back and is not its reply is
 * Python's to follow: the device's lock is held then, and Python releases it.
 */
#include "receiver.h"

#include "trapped.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

enum { SHIFT = 40, REGIONS = 32, KNOWN = 1024, HANDED_ON = 64, IDENTITY = 0xFFFF, IS_REPLY = 1, PAGE_SHIFT = 12, PAGES = 8 };
static const uint64_t REGION_BASE = 1ull << 62;
static const int64_t REMEMBERED_NS = 1000000000;

struct handed_on {
    uint32_t tid; /* 0: none. A thread makes one call at a time, so its next one says that this was ended */
    uint64_t call;
};

typedef struct {
    PyObject_HEAD
    int fd; /* negative: closed */
    StepLock *lock;
    Py_buffer carried; /* one byte: not 0 while the connection is not at the beginning of a message */
    uint64_t sizes[2][REGIONS]; /* bytes that can be read, written */
    uint64_t traps; /* how often the server was given the traps of a program */
    struct handed_on handed_on[HANDED_ON];
} Line;

static int fill_sizes(uint64_t *sizes, PyObject *given)
{
    PyObject *numbers = PySequence_Fast(given, "expected sizes of regions");
    if (!numbers)
        return -1;
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(numbers);
    for (Py_ssize_t i = 0; i < count && i < REGIONS; i++)
        sizes[i] = PyLong_AsUnsignedLongLong(PySequence_Fast_GET_ITEM(numbers, i));
    Py_DECREF(numbers);
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *line_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    PyObject *readable, *writable;
    Line *self = (Line *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    StepLock *lock;
    if (!PyArg_ParseTuple(args, "iO!w*OO:Line", &self->fd, &StepLockType, &lock, &self->carried, &readable, &writable) ||
        (self->lock = (StepLock *)Py_NewRef(lock), fill_sizes(self->sizes[0], readable)) ||
        fill_sizes(self->sizes[1], writable)) {
        Py_DECREF(self);
        return NULL;
    }
    if (self->carried.len < 1) {
        Py_DECREF(self);
        return PyErr_Format(PyExc_ValueError, "no room for a byte");
    }
    return (PyObject *)self;
}

static void line_dealloc(Line *self)
{
    if (self->carried.obj)
        PyBuffer_Release(&self->carried);
    Py_XDECREF(self->lock);
    Py_TYPE(self)->tp_free(self);
}

static PyObject *line_close(Line *self, PyObject *Py_UNUSED(none))
{
    self->fd = -1;
    Py_RETURN_NONE;
}

static PyObject *line_trap(Line *self, PyObject *Py_UNUSED(none))
{
    self->traps++;
    Py_RETURN_NONE;
}

/* The ids of calls are never used twice, so to end one that was ended already does nothing. */
static PyObject *line_fail(Line *self, PyObject *args)
{
    int listener, error;
    if (!PyArg_ParseTuple(args, "ii:fail", &listener, &error))
        return NULL;
    for (struct handed_on *each = self->handed_on; each < self->handed_on + HANDED_ON; each++) {
        struct seccomp_notif_resp answer = {.id = each->call, .error = -error};
        if (each->tid)
            (void)ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
        *each = (struct handed_on){0};
    }
    Py_RETURN_NONE;
}

static PyMethodDef line_methods[] = {
    {"close", (PyCFunction)line_close, METH_NOARGS, "Do no access from now on. The caller holds the lock."},
    {"trap", (PyCFunction)line_trap, METH_NOARGS,
     "The server was given another program's traps: hand on what is remembered as trapped after this. With the lock."},
    {"fail", (PyCFunction)line_fail, METH_VARARGS,
     "fail(listener, errno): end the calls that were handed on, for a server that is gone. The caller holds the lock."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject LineType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mdev_user.vfio_user._native.Line",
    .tp_doc = "Line(fd, lock, carried, readable, writable): a device's connection, and how long its regions are.",
    .tp_basicsize = sizeof(Line),
    .tp_new = line_new,
    .tp_dealloc = (destructor)line_dealloc,
    .tp_methods = line_methods,
};

struct known {
    uint32_t tid;
    int fd;
    int64_t until;
    Line *line; /* NULL: nothing is known */
    uint64_t traps; /* the server has this process's memory as long as the line counts as many; 0: never */
    uint64_t pages[PAGES]; /* of its memory, each at its number modulo PAGES: the process itself may write there */
};

typedef struct {
    PyObject_HEAD
    int listener, others; /* others: readable when Python has something else to do */
    StepLock *guard; /* of the table: one thread receives while others change it */
    bool receiving, served_others; /* the last turn was the others': now it is the calls', if there are any */
    struct known known[KNOWN];
    PyObject *forgotten; /* lines that the receiving thread may still be at: it drops them, before its next turn */
} Receiver;

static struct known *place_of(Receiver *self, uint32_t tid, int fd)
{
    return &self->known[(tid * 31u + (uint32_t)fd) % KNOWN];
}

static PyObject *receiver_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    Receiver *self = (Receiver *)type->tp_alloc(type, 0);
    if (self && PyArg_ParseTuple(args, "ii:Receiver", &self->listener, &self->others) &&
        (self->forgotten = PyList_New(0)) &&
        (self->guard = (StepLock *)PyObject_CallNoArgs((PyObject *)&StepLockType)))
        return (PyObject *)self;
    Py_XDECREF(self);
    return NULL;
}

static void receiver_dealloc(Receiver *self)
{
    for (int i = 0; i < KNOWN; i++)
        Py_XDECREF(self->known[i].line);
    Py_XDECREF(self->forgotten);
    Py_XDECREF(self->guard);
    Py_TYPE(self)->tp_free(self);
}

/* Put something else in a place of the table. With the GIL; the guard is held for moments, never by who waits for it. */
static int put(Receiver *self, struct known *place, struct known known)
{
    Line *before = place->line;
    if (before && PyList_Append(self->forgotten, (PyObject *)before))
        return -1;
    take(self->guard);
    *place = known;
    give(self->guard);
    Py_XINCREF(known.line);
    Py_XDECREF(before);
    return 0;
}

static PyObject *receiver_remember(Receiver *self, PyObject *args)
{
    unsigned int tid;
    int fd, trapped;
    Line *line;
    if (!PyArg_ParseTuple(args, "IiO!p:remember", &tid, &fd, &LineType, &line, &trapped))
        return NULL;
    struct known known = {.tid = tid, .fd = fd, .until = now_ns() + REMEMBERED_NS, .line = line,
                          .traps = trapped ? line->traps : 0};
    if (put(self, place_of(self, tid, fd), known))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *receiver_forget(Receiver *self, PyObject *args)
{
    int fd = -1;
    if (!PyArg_ParseTuple(args, "|i:forget", &fd))
        return NULL;
    for (int i = 0; i < KNOWN; i++) {
        struct known *place = &self->known[i];
        if (place->line && (fd < 0 || place->fd == fd) && put(self, place, (struct known){.line = NULL}))
            return NULL;
    }
    Py_RETURN_NONE;
}

/* What a turn without the GIL ended with. */
enum end { NEXT, OTHER, BEGUN, READY, ENDED, FAILED };

struct access {
    Line *line; /* with its lock, when the access was begun */
    struct known known; /* who makes it */
    ssize_t received; /* of the reply; negative: nothing in time */
    struct message request, reply;
};

/* A page, or 0 for what lies in two. */
static uint64_t page_of(const struct seccomp_notif *call, uint32_t count)
{
    const uint64_t first = call->data.args[1] >> PAGE_SHIFT, last = (call->data.args[1] + count - 1) >> PAGE_SHIFT;
    return first == last ? first : 0;
}

/* The line of an access that may be done here, with its lock taken; NULL leaves the call to Python. */
static Line *line_of(Receiver *self, const struct seccomp_data *call, uint32_t tid, struct access *access)
{
    const bool writes = call->nr == SYS_pwrite64;
    const uint64_t place = call->args[3] - REGION_BASE, region = place >> SHIFT, offset = place & ((1ull << SHIFT) - 1);
    const int fd = (int)call->args[0];
    const uint64_t count = call->args[2];
    if ((!writes && call->nr != SYS_pread64) || call->args[3] < REGION_BASE || region >= REGIONS || !count ||
        count > REGISTER)
        return NULL;
    Line *line = NULL;
    take(self->guard);
    const struct known *known = place_of(self, tid, fd);
    access->known = *known;
    if (known->line && known->tid == tid && known->fd == fd && known->until > now_ns() &&
        offset + count <= known->line->sizes[writes][region] && PyThread_acquire_lock(known->line->lock->lock, NOWAIT_LOCK)) {
        line = known->line;
        atomic_store(&line->lock->owner, PyThread_get_thread_ident());
        if (line->fd < 0 || *(unsigned char *)line->carried.buf) {
            give(line->lock);
            line = NULL;
        }
    }
    give(self->guard);
    access->request = (struct message){.id = IDENTITY, .command = writes ? WRITE : READ,
                                       .size = HEAD + (writes ? (uint32_t)count : 0), .offset = offset,
                                       .region = (uint32_t)region, .count = (uint32_t)count};
    return line;
}

/* Where this thread's call is noted; NULL when so many threads' are that nobody knows which of them were ended. */
static struct handed_on *place_in(Line *line, uint32_t tid)
{
    struct handed_on *place = line->handed_on;
    while (place < line->handed_on + HANDED_ON && place->tid && place->tid != tid)
        place++;
    return place < line->handed_on + HANDED_ON ? place : NULL;
}

/* Threads come and go: forget the calls that were ended. */
static void forget_ended(int listener, Line *line)
{
    for (struct handed_on *each = line->handed_on; each < line->handed_on + HANDED_ON; each++)
        if (each->tid && ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &each->call))
            each->tid = 0;
}

static bool sent_whole(const Line *line, const void *message, size_t size)
{
    const ssize_t sent = send(line->fd, message, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0 && sent != (ssize_t)size) /* nobody could follow what comes after a part of a message */
        shutdown(line->fd, SHUT_RDWR);
    return sent == (ssize_t)size;
}

/* Whether the server ends this call. It stores where the program itself may not, so that is looked at here first. */
static bool may_hand_on(const struct seccomp_notif *call, const Line *line, const struct access *access)
{
    const bool writes = access->request.command == WRITE;
    const uint64_t page = page_of(call, access->request.count);
    return access->known.traps && access->known.traps == line->traps &&
           (writes || (page && page == access->known.pages[page % PAGES]));
}

/* With the line's lock, which this gives back. */
static enum end hand_on(int listener, const struct seccomp_notif *call, Line *line, const struct access *access)
{
    struct handed_on *place = place_in(line, call->pid);
    if (!place) {
        forget_ended(listener, line);
        place = place_in(line, call->pid);
    }
    if (!place)
        return give(line->lock), OTHER;
    struct trapped message = {.access = access->request, .call = call->id, .address = call->data.args[1]};
    message.access.command = access->request.command == WRITE ? TRAPPED_WRITE : TRAPPED_READ;
    message.access.flags = NO_REPLY;
    message.access.size = sizeof(message);
    *place = (struct handed_on){call->pid, call->id};
    const bool sent = sent_whole(line, &message, sizeof(message));
    if (!sent)
        place->tid = 0;
    give(line->lock);
    return sent ? NEXT : OTHER;
}

/* What was just written is the program's to write. */
static void remember_page(Receiver *self, const struct seccomp_notif *call, const struct access *access)
{
    struct known *known = place_of(self, call->pid, (int)call->data.args[0]);
    const uint64_t page = page_of(call, access->request.count);
    take(self->guard);
    if (known->tid == call->pid && known->fd == (int)call->data.args[0])
        known->pages[page % PAGES] = page;
    give(self->guard);
}

/* With the line's lock, which this gives back unless the reply was not the expected one. */
static enum end perform(Receiver *self, const struct seccomp_notif *call, Line *line, struct access *access)
{
    struct message *request = &access->request, *reply = &access->reply;
    const bool writes = request->command == WRITE;
    struct iovec there = {(void *)call->data.args[1], request->count};
    struct iovec here = {writes ? request->data : reply->data, request->count};
    if (writes && process_vm_readv((pid_t)call->pid, &here, 1, &there, 1, 0) != (ssize_t)request->count)
        return give(line->lock), OTHER;
    if (may_hand_on(call, line, access))
        return hand_on(self->listener, call, line, access);
    if (!sent_whole(line, request, request->size))
        return give(line->lock), OTHER;
    const uint32_t expected = HEAD + (writes ? 0 : request->count);
    do
        access->received = recv(line->fd, reply, expected, 0);
    while (access->received < 0 && errno == EINTR);
    struct message wanted = *request;
    wanted.size = expected;
    wanted.flags = IS_REPLY;
    if (access->received != (ssize_t)expected || memcmp(&wanted, reply, HEAD))
        return BEGUN;
    give(line->lock);
    struct seccomp_notif_resp answer = {.id = call->id, .val = request->count};
    if (!writes && process_vm_writev((pid_t)call->pid, &here, 1, &there, 1, 0) != (ssize_t)request->count)
        answer.val = 0, answer.error = -EFAULT;
    else if (!writes)
        remember_page(self, call, access);
    return ioctl(self->listener, SECCOMP_IOCTL_NOTIF_SEND, &answer) && errno != ENOENT ? FAILED : NEXT;
}

/* One turn without the GIL. */
static enum end turn(Receiver *self, struct seccomp_notif *call, struct access *access)
{
    struct pollfd polled[] = {{.fd = self->listener, .events = POLLIN}, {.fd = self->others, .events = POLLIN}};
    if (poll(polled, 2, -1) < 0)
        return FAILED;
    self->served_others = polled[1].revents && !(self->served_others && polled[0].revents & POLLIN);
    if (self->served_others)
        return READY;
    if (!(polled[0].revents & POLLIN))
        return ENDED;
    memset(call, 0, sizeof(*call));
    if (ioctl(self->listener, SECCOMP_IOCTL_NOTIF_RECV, call))
        return errno == ENOENT ? NEXT : FAILED; /* the caller was killed */
    Line *line = line_of(self, &call->data, call->pid, access);
    if (!line)
        return OTHER;
    access->line = line;
    return perform(self, call, line, access);
}

static PyObject *told(const struct seccomp_notif *call)
{
    const unsigned long long *args = (const unsigned long long *)call->data.args;
    return Py_BuildValue("KIi(KKKKKK)", (unsigned long long)call->id, (unsigned int)call->pid, call->data.nr, args[0],
                         args[1], args[2], args[3], args[4], args[5]);
}

/* What Python needs to follow an access that was begun here. */
static PyObject *begun(const struct seccomp_notif *call, const struct access *access)
{
    const struct message *request = &access->request;
    PyObject *received = access->received < 0
                             ? Py_NewRef(Py_None)
                             : PyBytes_FromStringAndSize((const char *)&access->reply, access->received);
    if (!received)
        return NULL;
    const Py_ssize_t given = request->command == WRITE ? (Py_ssize_t)request->count : 0;
    return Py_BuildValue("(NONIKIy#)", told(call), access->line, received, request->region,
                         (unsigned long long)request->offset, request->count, request->data, given);
}

static PyObject *next_call(Receiver *self)
{
    struct seccomp_notif call;
    struct access access;
    enum end end;
    int error;
    do {
        Py_BEGIN_ALLOW_THREADS
        do
            end = turn(self, &call, &access);
        while (end == NEXT);
        error = errno;
        Py_END_ALLOW_THREADS
    } while (end == FAILED && error == EINTR && !PyErr_CheckSignals());
    if (end == OTHER)
        return told(&call);
    if (end == BEGUN)
        return begun(&call, &access);
    if (end == READY)
        Py_RETURN_TRUE;
    if (end == ENDED)
        Py_RETURN_NONE;
    errno = error;
    return PyErr_Occurred() ? NULL : PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *receiver_receive(Receiver *self, PyObject *Py_UNUSED(none))
{
    if (self->receiving)
        return PyErr_Format(PyExc_RuntimeError, "another thread receives");
    if (PyList_SetSlice(self->forgotten, 0, PyList_GET_SIZE(self->forgotten), NULL))
        return NULL;
    self->receiving = true;
    PyObject *found = next_call(self);
    self->receiving = false;
    return found;
}

static PyMethodDef receiver_methods[] = {
    {"remember", (PyCFunction)receiver_remember, METH_VARARGS, "This descriptor of this thread is this line's device."},
    {"forget", (PyCFunction)receiver_forget, METH_VARARGS, "Forget this number, or all."},
    {"receive", (PyCFunction)receiver_receive, METH_NOARGS,
     "The next system call that is Python's: (id, tid, number, args). True when ``others`` is readable, None when nobody\n"
     "is left who makes system calls. Or an access that was begun: (call, line, received or None, region, offset, count,\n"
     "data), with the line's lock held."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject ReceiverType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mdev_user.vfio_user._native.Receiver",
    .tp_doc = "Receiver(listener, others): receives system calls from a seccomp listener.",
    .tp_basicsize = sizeof(Receiver),
    .tp_new = receiver_new,
    .tp_dealloc = (destructor)receiver_dealloc,
    .tp_methods = receiver_methods,
};

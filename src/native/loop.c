/* The native loop: accesses to plain registers are answered without Python, all others by calling into it.
 *
 * It does what access_loop.py does, which stays the reference: the tests run both. What is special about a message (file
 * descriptors, a part of it only, another command, no reply wanted) is returned to Python as it came.
 *
 * The interpreter's lock (the GIL) is held only while Python is called, so that an mdev does not wait for its neighbours
 * in the process. What the loop shares with Python is guarded by the step lock instead: only the thread that holds it can
 * change a table (`fill` and `clear` check that) and only that thread can release it, so however these objects are
 * misused, no row goes away while the loop is at it. Whoever holds the step lock may wait for the GIL; whoever waits for
 * the step lock has let go of the GIL.
 */
#include "pixels.h"
#include "plain_table.h"
#include "receiver.h"
#include "scattered.h"
#include "trapped.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LARGEST_DATA = 1 << 20, MOST_FDS = 16 };
static const uint64_t FAR_OFFSET = 1ull << 40; /* no region is longer */

struct loop {
    int fd;
    Py_buffer buffer;
    PlainTable *table;
    PyObject *read, *write, *leave;
    Py_buffer stuck; /* one byte: not 0 while messages wait to be sent */
    long long busy_poll; /* nanoseconds */
    int listener, memory; /* of the program whose trapped accesses are answered; negative: none */
    PyObject *write_trapped;
    bool trapped; /* what was received is an access of the program's: this is its call, and where its data goes */
    uint64_t call, address;
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(MOST_FDS * sizeof(int))];
    } control;
    struct msghdr received;
};

static ssize_t receive_now(struct loop *loop, int flags)
{
    struct iovec place = {loop->buffer.buf, (size_t)loop->buffer.len};
    struct msghdr *received = &loop->received;
    *received = (struct msghdr){.msg_iov = &place, .msg_iovlen = 1, .msg_control = &loop->control,
                                .msg_controllen = sizeof(loop->control)};
    const ssize_t size = recvmsg(loop->fd, received, MSG_CMSG_CLOEXEC | flags);
    received->msg_iov = NULL;
    return size;
}

static ssize_t receive(struct loop *loop)
{
    if (loop->busy_poll > 0) {
        const int64_t end = now_ns() + loop->busy_poll;
        do {
            const ssize_t size = receive_now(loop, MSG_DONTWAIT);
            if (size >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
                return size;
        } while (now_ns() < end);
    }
    return receive_now(loop, 0);
}

/* A valid trapped access becomes the access that it is, and its call is kept. */
static void unwrap(struct loop *loop, struct trapped *trapped)
{
    struct message *message = &trapped->access;
    loop->trapped = loop->listener >= 0 && message->size == sizeof(*trapped) && message->flags == NO_REPLY &&
                    (message->command == TRAPPED_READ || message->command == TRAPPED_WRITE) &&
                    message->offset < FAR_OFFSET && message->count && message->count <= REGISTER;
    if (!loop->trapped)
        return;
    loop->call = trapped->call;
    loop->address = trapped->address;
    message->flags = 0;
    message->command = message->command == TRAPPED_WRITE ? WRITE : READ;
    message->size = HEAD + (message->command == WRITE ? message->count : 0);
}

/* Whether what was received is one whole, valid access to at most a register (a read: of any size), and nothing else. */
static bool is_access(struct loop *loop, ssize_t size)
{
    const struct message *message = loop->buffer.buf;
    loop->trapped = false;
    if (size < HEAD || loop->received.msg_controllen || loop->received.msg_flags & MSG_CTRUNC)
        return false;
    if (size == sizeof(struct trapped))
        unwrap(loop, loop->buffer.buf);
    if (loop->trapped)
        return true;
    if (message->size != size || message->flags || message->offset >= FAR_OFFSET || !message->count)
        return false;
    if (message->command == READ)
        return size == HEAD && message->count <= LARGEST_DATA;
    return message->command == WRITE && message->count <= REGISTER && size == (ssize_t)(HEAD + message->count);
}

/* Have Python perform the access. NULL with its exception. */
static PyObject *perform(struct loop *loop, const struct message *message)
{
    PyObject *reply;
    if (message->command == READ)
        reply = PyObject_CallFunction(loop->read, "HKII", message->id, (unsigned long long)message->offset,
                                      message->region, message->count);
    else if (loop->trapped)
        reply = PyObject_CallFunction(loop->write_trapped, "KKIy#", (unsigned long long)loop->call,
                                      (unsigned long long)message->offset, message->region, message->data,
                                      (Py_ssize_t)message->count);
    else
        reply = PyObject_CallFunction(loop->write, "HKIy#", message->id, (unsigned long long)message->offset,
                                      message->region, message->data, (Py_ssize_t)message->count);
    if (reply && !PyBytes_Check(reply))
        Py_SETREF(reply, PyErr_Format(PyExc_TypeError, "expected a reply in bytes, given %R", reply));
    return reply;
}

/* What was received, as socket.recvmsg_into says it. */
static PyObject *told(const struct loop *loop, ssize_t size)
{
    struct msghdr *received = (struct msghdr *)&loop->received;
    PyObject *ancillary = PyList_New(0);
    for (struct cmsghdr *each = CMSG_FIRSTHDR(received); ancillary && each; each = CMSG_NXTHDR(received, each)) {
        PyObject *item = Py_BuildValue("iiy#", each->cmsg_level, each->cmsg_type, CMSG_DATA(each),
                                       (Py_ssize_t)(each->cmsg_len - CMSG_LEN(0)));
        if (!item || PyList_Append(ancillary, item))
            Py_CLEAR(ancillary);
        Py_XDECREF(item);
    }
    return ancillary ? Py_BuildValue("nNi", (Py_ssize_t)size, ancillary, received->msg_flags) : NULL;
}

/* Without the GIL: 0 if nothing went, or could go now; negative when the peer is gone. Under the step lock. */
static ssize_t send_now(const struct loop *loop, const void *data, size_t size)
{
    if (*(const unsigned char *)loop->stuck.buf)
        return 0;
    const ssize_t sent = send(loop->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) ? 0 : sent;
}

/* Without the GIL, and without the step lock: to store in the program's memory may take as long as it likes. */
static void end_call(const struct loop *loop, const struct message *reply, size_t size)
{
    struct seccomp_notif_resp answer = {.id = loop->call};
    const size_t data = size > HEAD ? size - HEAD : 0;
    if (reply->flags & ERROR) /* what is no errno of a system call would have the kernel do the call once more */
        answer.error = reply->error && reply->error <= EHWPOISON ? -(int)reply->error : -EIO;
    else if (data && pwrite(loop->memory, reply->data, data, (off_t)loop->address) != (ssize_t)data)
        answer.error = -EFAULT;
    else
        answer.val = reply->count;
    (void)ioctl(loop->listener, SECCOMP_IOCTL_NOTIF_SEND, &answer); /* it may be gone */
}

/* What the loop does without the GIL until it needs Python; from PERFORM on with the step lock. */
enum need { RECEIVED, NOT_RECEIVED, PERFORM, LEFT, NOT_SENT };

struct turn {
    const void *data; /* the reply that goes out next */
    size_t size; /* 0: none */
    ssize_t done; /* bytes received, or sent of the reply */
    struct message reply;
};

static enum need go_on(struct loop *loop, struct turn *turn)
{
    StepLock *lock = loop->table->lock;
    for (;;) {
        if (turn->size && loop->trapped) {
            give(lock);
            end_call(loop, turn->data, turn->size);
            turn->size = 0;
        } else if (turn->size) {
            turn->done = send_now(loop, turn->data, turn->size);
            if (turn->done != (ssize_t)turn->size)
                return turn->done < 0 ? NOT_SENT : LEFT;
            give(lock);
            turn->size = 0;
        }
        turn->done = receive(loop);
        if (turn->done < 0)
            return NOT_RECEIVED;
        if (!is_access(loop, turn->done))
            return RECEIVED;
        let_in(lock);
        take(lock);
        turn->data = &turn->reply;
        turn->size = answer(loop->table, loop->buffer.buf, &turn->reply);
        if (!turn->size)
            return PERFORM;
    }
}

/* After Python ran in a step: whether it is a step still. It may have raised, or let go of the lock. */
static bool is_step(const struct loop *loop, const PyObject *result)
{
    if (is_mine(loop->table->lock)) {
        if (result)
            return true;
        give(loop->table->lock);
    } else if (result)
        PyErr_SetString(PyExc_RuntimeError, "the step lock was released within a step");
    return false;
}

/* Queue what was not sent of the reply; the end of its step. */
static PyObject *leave(struct loop *loop, const struct turn *turn)
{
    PyObject *done = PyObject_CallFunction(loop->leave, "y#n", turn->data, (Py_ssize_t)turn->size, turn->done);
    const bool step = is_step(loop, done);
    Py_XDECREF(done);
    if (!step)
        return NULL;
    give(loop->table->lock);
    Py_RETURN_NONE;
}

static PyObject *failed(int error)
{
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *run(struct loop *loop)
{
    struct turn turn = {.size = 0};
    PyObject *reply = NULL, *result = NULL;
    for (;;) {
        enum need need;
        int error;
        Py_BEGIN_ALLOW_THREADS
        need = go_on(loop, &turn);
        error = errno;
        Py_END_ALLOW_THREADS
        if (need == NOT_RECEIVED && error == EINTR && !PyErr_CheckSignals())
            continue;
        if (need != PERFORM) {
            if (need == RECEIVED)
                result = told(loop, turn.done);
            else if (need == LEFT)
                result = leave(loop, &turn);
            else if (!PyErr_Occurred())
                failed(error);
            if (need == NOT_SENT)
                give(loop->table->lock);
            break;
        }
        Py_XSETREF(reply, perform(loop, loop->buffer.buf));
        if (!is_step(loop, reply))
            break;
        turn.data = PyBytes_AS_STRING(reply);
        turn.size = (size_t)PyBytes_GET_SIZE(reply);
        if (!turn.size) /* nothing to send: it is sent already, and the step ends */
            give(loop->table->lock);
    }
    Py_XDECREF(reply);
    return result;
}

static PyObject *serve(PyObject *Py_UNUSED(module), PyObject *args)
{
    struct loop loop = {0};
    if (!PyArg_ParseTuple(args, "iw*O!OOOw*LiiO:serve", &loop.fd, &loop.buffer, &PlainTableType, &loop.table,
                          &loop.read, &loop.write, &loop.leave, &loop.stuck, &loop.busy_poll, &loop.listener,
                          &loop.memory, &loop.write_trapped))
        return NULL;
    PyObject *result = NULL;
    if (loop.buffer.len < (Py_ssize_t)sizeof(struct message) || loop.stuck.len < 1)
        PyErr_SetString(PyExc_ValueError, "the buffer has no room for an access");
    else if (is_mine(loop.table->lock))
        PyErr_SetString(PyExc_RuntimeError, "this thread holds the step lock already");
    else
        result = run(&loop);
    PyBuffer_Release(&loop.buffer);
    PyBuffer_Release(&loop.stuck);
    return result;
}

static PyMethodDef functions[] = {
    {"serve", serve, METH_VARARGS,
     "serve(fd, buffer, table, read, write, leave, stuck, busy_poll, listener, memory, write_trapped): answer accesses\n"
     "until something else is received, which is returned as (size, ancillary, flags), or a reply was left over, which\n"
     "gives None. Trapped accesses are answered to the program that has the listener and the memory."},
    {"scan_lines", scan_lines, METH_VARARGS,
     "scan_lines(pixels, stride, width, height, (red, green, blue), lines, lines_per_block, gap): the lines of a PNG."},
    {"within", within, METH_VARARGS,
     "within(entries, first, skipped, size, base, length): how many bytes of the pieces lie in these."},
    {"gather", gather, METH_VARARGS,
     "gather(memory, low, high, base, entries, first, skipped, size, into): how many bytes were copied."},
    {"scatter", scatter, METH_VARARGS,
     "scatter(memory, low, high, base, entries, first, skipped, size, data): how many bytes were copied."},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_native", .m_size = -1, .m_methods = functions,
};

PyMODINIT_FUNC PyInit__native(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module && (PyModule_AddType(module, &StepLockType) || PyModule_AddType(module, &PlainTableType) ||
                   PyModule_AddType(module, &LineType) || PyModule_AddType(module, &ReceiverType)))
        Py_CLEAR(module);
    return module;
}

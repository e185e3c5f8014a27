/* The step lock as Python sees it: like threading.Lock, but only the thread that acquired it can release it. */
#include "step_lock.h"

static PyObject *lock_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, ":StepLock", names))
        return NULL;
    StepLock *self = (StepLock *)type->tp_alloc(type, 0);
    if (self && !(self->lock = PyThread_allocate_lock())) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void lock_dealloc(StepLock *self)
{
    if (self->lock) {
        if (atomic_load(&self->owner))
            give(self);
        PyThread_free_lock(self->lock);
    }
    Py_TYPE(self)->tp_free(self);
}

/* As a threading.Lock waits: signals are handled meanwhile, and their handlers may raise. A timeout below 0: no end. */
static PyLockStatus wait_for(StepLock *self, double timeout)
{
    PyLockStatus status = PyThread_acquire_lock_timed(self->lock, 0, 0);
    const int64_t end = now_ns() + (int64_t)(timeout * 1e9);
    while (status != PY_LOCK_ACQUIRED) {
        const int64_t left = end - now_ns();
        if (timeout >= 0 && left <= 0)
            return PY_LOCK_FAILURE;
        atomic_fetch_add(&self->waiting, 1);
        Py_BEGIN_ALLOW_THREADS
        status = PyThread_acquire_lock_timed(self->lock, timeout < 0 ? -1 : left / 1000 + 1, 1);
        atomic_fetch_sub(&self->waiting, 1); /* before it asks for the GIL, which may be kept by who looks at this */
        Py_END_ALLOW_THREADS
        if (status == PY_LOCK_INTR && PyErr_CheckSignals())
            return PY_LOCK_INTR;
    }
    return status;
}

static PyObject *lock_acquire(StepLock *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"blocking", "timeout", NULL};
    int blocking = 1;
    double timeout = -1;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|pd:acquire", names, &blocking, &timeout))
        return NULL;
    if (timeout != -1 && (!blocking || !(timeout >= 0 && timeout < PY_TIMEOUT_MAX / 1e6)))
        return PyErr_Format(PyExc_ValueError, "a timeout is not negative, and is of an acquire that blocks");
    const PyLockStatus status = wait_for(self, blocking ? timeout : 0);
    if (status == PY_LOCK_INTR)
        return NULL;
    if (status == PY_LOCK_ACQUIRED)
        atomic_store(&self->owner, PyThread_get_thread_ident());
    return PyBool_FromLong(status == PY_LOCK_ACQUIRED);
}

static PyObject *lock_enter(StepLock *self, PyObject *Py_UNUSED(none))
{
    if (wait_for(self, -1) == PY_LOCK_INTR)
        return NULL;
    atomic_store(&self->owner, PyThread_get_thread_ident());
    Py_RETURN_TRUE;
}

static PyObject *lock_release(StepLock *self, PyObject *Py_UNUSED(error))
{
    if (!is_mine(self))
        return PyErr_Format(PyExc_RuntimeError, "this thread does not hold the step lock");
    give(self);
    Py_RETURN_NONE;
}

static PyObject *lock_locked(StepLock *self, PyObject *Py_UNUSED(none))
{
    return PyBool_FromLong(atomic_load(&self->owner) != 0);
}

static PyObject *lock_is_wanted(StepLock *self, PyObject *Py_UNUSED(none))
{
    return PyBool_FromLong(atomic_load(&self->waiting) != 0);
}

static PyMethodDef lock_methods[] = {
    {"acquire", (PyCFunction)(void (*)(void))lock_acquire, METH_VARARGS | METH_KEYWORDS, NULL},
    {"release", (PyCFunction)lock_release, METH_NOARGS, NULL},
    {"locked", (PyCFunction)lock_locked, METH_NOARGS, NULL},
    {"is_wanted", (PyCFunction)lock_is_wanted, METH_NOARGS, NULL},
    {"__enter__", (PyCFunction)lock_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)lock_release, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject StepLockType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mdev_user.vfio_user._native.StepLock",
    .tp_doc = "A step lock that the native loop takes without Python. Only the thread that acquired it can release it.",
    .tp_basicsize = sizeof(StepLock),
    .tp_new = lock_new,
    .tp_dealloc = (destructor)lock_dealloc,
    .tp_methods = lock_methods,
};

/* The step lock of a device, as the native loop takes it: without Python. */
#ifndef STEP_LOCK_H
#define STEP_LOCK_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock;
    atomic_ulong owner; /* the thread that holds it, 0: none */
    atomic_int waiting; /* threads */
} StepLock;

extern PyTypeObject StepLockType;

static inline bool is_mine(StepLock *self)
{
    return atomic_load(&self->owner) == PyThread_get_thread_ident();
}

/* Without the GIL: whoever has it may be waiting for this lock. */
static inline void take(StepLock *self)
{
    if (!PyThread_acquire_lock(self->lock, NOWAIT_LOCK)) {
        atomic_fetch_add(&self->waiting, 1);
        PyThread_acquire_lock(self->lock, WAIT_LOCK);
        atomic_fetch_sub(&self->waiting, 1);
    }
    atomic_store(&self->owner, PyThread_get_thread_ident());
}

/* Before it is taken again, by whoever has just given it: let those have it who wait. See letting_in.py. */
static inline void let_in(StepLock *self)
{
    const struct timespec nap = {.tv_nsec = 20000};
    for (int naps = 12; naps && atomic_load(&self->waiting) && !atomic_load(&self->owner); naps--)
        nanosleep(&nap, NULL);
}

static inline void give(StepLock *self)
{
    atomic_store(&self->owner, 0);
    PyThread_release_lock(self->lock);
}

static inline int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

#endif

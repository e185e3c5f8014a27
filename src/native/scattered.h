/* Copying between a stretch of memory and pieces of a guest's, which lie here and there in one mapping. */
#ifndef SCATTERED_H
#define SCATTERED_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* within(entries, first, skipped, size, base, length): as ScatterList.within, for `length` bytes from base on. */
PyObject *within(PyObject *self, PyObject *arguments);

/* gather(memory, low, high, base, entries, first, skipped, size, into): copies the pieces, one behind the other, from
 * memory[low:high], of which the first byte is at the guest's address base. Ends before the first piece that is not all
 * in there. Returns how many bytes were copied. */
PyObject *gather(PyObject *self, PyObject *arguments);

/* As gather, the other way: (memory, low, high, base, entries, first, skipped, size, data). */
PyObject *scatter(PyObject *self, PyObject *arguments);

#endif

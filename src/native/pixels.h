/* Pictures of a device's screen as what an image file has. */
#ifndef PIXELS_H
#define PIXELS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

/* scan_lines(pixels, stride, width, height, (red, green, blue), lines, lines_per_block, gap), without the GIL: writes the
 * lines of a picture, and leaves a gap before the first of as many as a block has. Returns Adler's sum over the lines. */
PyObject *scan_lines(PyObject *self, PyObject *arguments);

#endif

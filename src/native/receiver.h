/* The receiver of a supervisor, and what it knows of a device. */
#ifndef RECEIVER_H
#define RECEIVER_H

#include "step_lock.h"

extern PyTypeObject LineType, ReceiverType;

#endif

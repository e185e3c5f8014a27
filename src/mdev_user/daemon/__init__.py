"""The front: the bus and every way to it in one process, and never a line of driver code."""

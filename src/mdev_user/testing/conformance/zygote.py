"""A fresh interpreter for each task: one process that has imported the driver and done nothing else, and its copies.

``python -m mdev_user.testing.conformance.zygote`` reads a `Birth` and then tasks from its standard input, each with its
length, and answers on its standard output. A copy is as fresh as a new interpreter, and takes milliseconds.
"""

import gc
import importlib.util
import os
import sys
import traceback
from struct import Struct
from typing import BinaryIO

import msgspec

from mdev_user.host.loader import import_again
from mdev_user.testing.conformance.copies import MOST_SECONDS, CopyDied, in_copy, limit_memory
from mdev_user.testing.conformance.operations import Finding
from mdev_user.testing.conformance.tasks import AnyParent, Rules, decode_task, encode, perform

LENGTH = Struct("<I")


class Birth(msgspec.Struct, frozen=True):
    """Where the driver is, and how it is found as the asking process found it."""

    path: list[str]
    """sys.path."""
    module: str
    file: str
    name: str
    """Of the class, in the module."""
    preamble: str
    """Python that runs before the driver is imported."""


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next message; None at the end."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    data = stream.read(length)
    return data if len(data) == length else None


def write_frame(stream: BinaryIO, data: bytes) -> None:
    stream.write(LENGTH.pack(len(data)) + data)
    stream.flush()


def load(birth: Birth) -> AnyParent:
    """Import the driver as it was imported there."""
    sys.path[:] = birth.path
    exec(compile(birth.preamble, "<preamble>", "exec"), {})  # noqa: S102 - of our own tests
    module = _imported(birth.module, birth.file)
    found: object = module
    for name in birth.name.split("."):
        found = getattr(found, name)
    return found  # type: ignore[return-value]  # the class that the asking process has


def source_of(module: str) -> str:
    """The file of an imported module; empty when it has none."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return getattr(sys.modules.get(module), "__file__", None) or (spec.origin if spec else None) or ""


def _imported(name: str, file: str) -> object:
    try:
        module = import_again(name)
    except ImportError:
        module = None
    if module is not None and os.path.realpath(source_of(name)) == os.path.realpath(file):
        return module
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made


def main() -> None:
    """Serve until the standard input ends."""
    tasks = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a driver prints is no answer
    birth = read_frame(tasks)
    if birth is None:
        return
    limit_memory()
    try:
        parent = load(msgspec.msgpack.decode(birth, type=Birth))
    except (Exception, SystemExit):  # noqa: BLE001 - driver code: anything can come out of it
        write_frame(answers, encode(Finding(traceback.format_exc())))
        return
    write_frame(answers, b"")
    gc.collect()
    gc.freeze()  # a copy then shares its pages with us for longer
    gc.disable()
    while (data := read_frame(tasks)) is not None:
        write_frame(answers, _in_copy(parent, data))


def _in_copy(parent: AnyParent, data: bytes) -> bytes:
    task = decode_task(data)

    def work() -> bytes:
        return encode(perform(parent, task))

    if isinstance(task, Rules):  # nothing of the driver's code is run: it leaves no trace
        return work()
    try:
        return in_copy(work, 2 * MOST_SECONDS)
    except CopyDied as error:
        return encode(Finding(str(error)))


if __name__ == "__main__":
    main()

"""The C programs: compiled into a folder of the run's own, asked for rounds over their standard input."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

_HERE = Path(__file__).parent
_SOURCES = ("pingpong", "client", "crowd", "interrupt", "copy", "mappings", "trapped", "calls", "picture")
_FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror", "-pthread")


class CannotMeasure(Exception):
    """Something that the benchmark needs is absent or failed; the text says what to do."""


class Times(TypedDict):
    """Nanoseconds of one round's accesses."""

    p50: int
    p99: int
    min: int
    max: int


class Round(TypedDict):
    """What one round of a program measured."""

    read: Times
    write: Times


def build(folder: Path, register: int = 1) -> None:
    """Compile every program into ``folder``, for a register of so many bytes."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise CannotMeasure("no C compiler, and the physical limit is measured with a C program: apt install gcc")
    for name in _SOURCES:
        command = [compiler, *_FLAGS, f"-DREGISTER={register}", "-o", str(folder / name), str(_HERE / f"{name}.c")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotMeasure(f"{' '.join(command)} failed:\n{done.stderr}")


class Program:
    """A running C program with its children, on one core."""

    def __init__(self, command: Sequence[str], core: int) -> None:
        self._command = command
        with on_core(core):  # a process begins where the thread is that starts it
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def round(self, accesses: int) -> Round:
        """Have it do so many accesses of each kind, and wait."""
        measured: Round = self.ask(accesses)
        return measured

    def ask(self, number: int) -> Any:  # noqa: ANN401 - each program answers in its own words
        """Have it do one round of so many accesses, pages or milliseconds, and wait for its answer."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise CannotMeasure("no pipes")
        try:
            stdin.write(f"{number}\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise CannotMeasure(f"{' '.join(self._command)} ended with status {self._process.wait()}")
        return json.loads(line)

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """After `pause`. A program that has ended in the meantime is an error: nothing would be measured beside it."""
        if self._process.poll() is not None:
            raise CannotMeasure(f"{' '.join(self._command)} ended with status {self._process.returncode}")
        self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def elsewhere(self, core: int) -> Iterator[None]:
        """On another core for a while."""
        before = os.sched_getaffinity(self._process.pid)
        os.sched_setaffinity(self._process.pid, {core})
        try:
            yield
        finally:
            os.sched_setaffinity(self._process.pid, before)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def on_core(core: int) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def running(command: Sequence[str], core: int) -> Iterator[Program]:
    program = Program(command, core)
    try:
        yield program
    finally:
        program.end()

"""What the tests let another process compute."""

import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Point:
    x: int
    y: int


class Odd(Exception):
    """Cannot be made from its own arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("odd")


def swapped(point: Point, times: int = 1) -> Point:
    return Point(point.y * times, point.x * times)


def nothing() -> None:
    return None


def process() -> int:
    return os.getpid()


def fail(kind: type[BaseException]) -> None:
    raise kind(1, 2) if kind is Odd else kind("as asked")


def die() -> None:
    os._exit(3)


def wait_for(path: str) -> int:
    """Where this runs, once there is a file."""
    Path(f"{path}.{os.getpid()}").touch()
    while not Path(path).exists():
        time.sleep(0.005)
    return os.getpid()


def unsendable() -> object:
    return lambda: None

"""Offload: long computations leave the host's process, where every millisecond holds up all its guests."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from mdev_user.errors import DriverError
from mdev_user.vfio.work import Offload

A = ParamSpec("A")
T = TypeVar("T")


async def offload(function: Callable[A, T], /, *arguments: A.args, **keywords: A.kwargs) -> T:
    """Let another process call a function, and go on with its answer.

    ``picture = await offload(render, scene)``. The function is one of a module and has no effects: a job that
    is restarted calls it again, and the answer to a job that was cancelled is thrown away. Its arguments and its answer
    can be pickled. What it raises is raised here; a DriverError when its process ends before it answers. Nothing ends a
    function that never answers but the end of the host: bound what a guest can ask for.
    """
    name = getattr(function, "__qualname__", "")
    if not name.isidentifier() or not getattr(function, "__module__", None):
        raise DriverError(
            f"offload({name or function!r}): expected a function of a module (no method, lambda or inner one), since "
            f"another process finds it by its name"
        )
    return cast("T", await Offload(function, arguments, keywords))

# The part of atheris 3 that tests/fuzz uses: it is installed by `make fuzz` alone.
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import CodeType
from typing import NoReturn

def instrument_imports(include: Iterable[str] = ..., exclude: Iterable[str] = ...) -> AbstractContextManager[None]: ...
def patch_code(code: CodeType, trace_dataflow: bool, nested: bool = ...) -> CodeType: ...
def Setup(  # noqa: N802 - its name there
    args: list[str],
    test_one_input: Callable[[bytes], None],
    *,
    custom_mutator: Callable[[bytes, int, int], bytes] | None = ...,
) -> list[str]: ...
def Fuzz() -> NoReturn: ...  # noqa: N802 - its name there
def Mutate(data: bytes, max_size: int) -> bytes: ...  # noqa: N802 - its name there

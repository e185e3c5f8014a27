"""What is different between the kernel's answer to a step and ours, in parts that can be told one by one."""

from collections.abc import Iterator, Sequence
from difflib import ndiff

from golden.normal import Uevent, normal, normal_event
from golden.transcript import Answer, Step


def parts_of_answer(step: Step, ours: Answer) -> list[str]:
    """Empty where the answers are the same. Each part is one line: ``rc 36 -> -1``, ``out - LINE``, ``out + LINE``."""
    kernel, ours = normal(step, step.answer), normal(step, ours)
    found = [f"rc {kernel.rc} -> {ours.rc}"] if kernel.rc != ours.rc else []
    if kernel.errno != ours.errno:
        found.append(f"errno {kernel.errno} -> {ours.errno}")
    return [*found, *_changed("out", kernel.out.splitlines(), ours.out.splitlines())]


def parts_of_events(kernel: Sequence[Uevent], ours: Sequence[Uevent]) -> list[str]:
    """Empty where the sequences are the same; otherwise ``event - ...`` and ``event + ...``."""
    return list(_changed("event", [_told(each) for each in kernel], [_told(each) for each in ours]))


def _told(event: Uevent) -> str:
    """Every variable, in its order, as one line."""
    return " ".join(f"{name}={value}" for name, value in normal_event(event).items())


def _changed(what: str, kernel: list[str], ours: list[str]) -> Iterator[str]:
    if kernel != ours:
        yield from (f"{what} {line}" for line in ndiff(kernel, ours) if line[0] in "-+")

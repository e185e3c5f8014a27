"""Every error of ours has an errno, and an errno crosses a process boundary and comes back."""

import errno
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdev_user import errors
from mdev_user.errors import MdevError, MdevUserError, NoDevice, errno_of, error_from, text_of


def kinds(base: type[MdevUserError]) -> Iterator[type[MdevUserError]]:
    for each in base.__subclasses__():
        yield each
        yield from kinds(each)


ALL = sorted(
    (each for each in kinds(MdevUserError) if each.__module__ == errors.__name__), key=lambda kind: kind.__name__
)
EXPECTED = {
    "AlreadyExists": "EEXIST",
    "Busy": "EBUSY",
    "ConfigError": "EINVAL",
    "DmaFault": "EFAULT",
    "DriverError": "EINVAL",
    "GuestError": "EINVAL",
    "InvalidValue": "EINVAL",
    "MappingExists": "EEXIST",
    "MdevError": "EIO",
    "NoDevice": "ENODEV",
    "NoInstances": "EUSERS",
    "NoSpace": "ENOSPC",
    "NotReady": "EAGAIN",
    "NotSupported": "EINVAL",
    "OutOfRange": "EFAULT",
    "PeerError": "EPROTO",
    "TooManyMappings": "ENOSPC",
    "UnknownRequest": "ENOTTY",
}
"""The ABI: what a writer of sysfs, a VMM or a program sees. A change here is a change for them."""


def test_table_of_errno_is_the_abi() -> None:
    table = {each.__name__: errno.errorcode[each.errno] for each in ALL}
    assert EXPECTED.items() <= table.items()


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_errno_of_an_error_is_its_kinds(kind: type[MdevUserError]) -> None:
    assert errno_of(kind("why")) == kind.errno
    assert str(kind("why")) == "why"


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_says_when_it_is_raised(kind: type[MdevUserError]) -> None:
    assert kind.__doc__
    assert kind.__doc__ != MdevUserError.__doc__


@given(st.sampled_from(sorted(errno.errorcode)), st.text(max_size=20))
def test_errno_and_text_come_back_from_the_other_process(number: int, text: str) -> None:
    error = error_from(number, text)
    assert errno_of(error) == number
    assert text in str(error)
    assert str(error_from(errno_of(error), text)) == str(error)


@given(st.sampled_from(sorted(errno.errorcode)), st.text(min_size=1, max_size=20))
def test_the_text_that_came_is_told_without_a_number(number: int, text: str) -> None:
    assert text_of(error_from(number, text)) == text


def test_the_text_of_a_systems_error_names_its_file() -> None:
    assert text_of(FileNotFoundError(errno.ENOENT, "no", "/a/b")) == "/a/b: no"
    assert text_of(OSError("without a number")) == "without a number"


@pytest.mark.parametrize(
    "name", ["InvalidValue", "AlreadyExists", "NoInstances", "NoSpace", "NoDevice", "NotReady", "Busy"]
)
def test_error_of_the_framework_keeps_its_kind_across_processes(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, MdevError)
    assert type(error_from(kind.errno, "why")) is kind


def test_system_errors_keep_their_errno() -> None:
    assert errno_of(OSError(errno.ENFILE, "no")) == errno.ENFILE
    assert errno_of(FileNotFoundError(errno.ENOENT, "no")) == errno.ENOENT


@pytest.mark.parametrize(
    "error", [ValueError("?"), KeyError(1), OSError("without a number"), KeyboardInterrupt()], ids=repr
)
def test_what_nobody_expected_is_eio(error: BaseException) -> None:
    assert errno_of(error) == errno.EIO


def test_error_can_be_caught_by_its_side() -> None:
    with pytest.raises(MdevError):
        raise NoDevice("gone")

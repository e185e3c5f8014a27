"""What is counted of a device."""

from mdev_user.vfio.counters import Counters


def test_the_last_error_and_the_slowest_step_are_named() -> None:
    counters = Counters()
    counters.guest_error(ValueError("first"))
    counters.guest_error(ValueError("second"))
    counters.slow_step("read", 3)
    counters.slow_step("write", 5)
    counters.slow_step("reset", 4)
    values = counters.values()
    assert (values["guest_errors"], values["last_guest_error"]) == (2, "second")
    assert (values["slow_steps"], values["slowest_step"], values["slowest_step_ns"]) == (3, "write", 5)
    assert values["reads"] == 0


def test_a_job_that_sleeps_says_how_long() -> None:
    from mdev_user.vfio.work import Sleep

    async def job() -> None:
        await Sleep(0.25)

    work = job()
    assert work.send(None) == Sleep(0.25)
    work.close()

"""Two guests use one parent at the same time, each through its stock 8250 driver, and never notice one another."""

from functools import partial

import pytest

from guest.scene import DATA_READY, IER, LSR, RBR, THR, Scene, at_once, disagreement, eventually, functions
from mdev_user.guests import serial
from mdev_user.guests.console import GuestFailed, GuestTimeout
from mdev_user.guests.rig import Rig
from mdev_user.guests.serial import Exchange
from mdev_user.guests.vm import Guest

pytestmark = pytest.mark.guest

ONE, TWO = bytes(range(128)), bytes(range(255, 127, -1))  # no byte is in both
SIZE = 10_000
TIMES = 30


def foreign(received: bytes, pattern: bytes) -> bytes:
    """The bytes that are none of the pattern."""
    return received.translate(None, pattern)


def test_each_stock_driver_found_a_16550a_with_an_irq(scene: Scene) -> None:
    assert [len(each.ports["mtty"]) for each in scene] == [1, 2]
    for tenant in scene:
        for port in tenant.ports["mtty"]:
            status = serial.status(tenant.guest, port)
            assert (status.uart, status.irq > 0) == ("16550A", True), status.text


def test_the_daemon_tells_who_uses_an_mdev(scene: Scene) -> None:
    for tenant in scene:
        client = tenant.daemon.control.mdev(tenant.mdevs["mtty"]).client
        assert client is not None
        assert (client.pid, client.name) == (tenant.guest.pid, "qemu-system-x86")


def test_a_second_qemu_is_told_that_an_mdev_is_in_use(scene: Scene, rig: Rig) -> None:
    """It does not abort, as QEMU 11.1 does at a connection that is closed without an answer (`farewell`)."""
    path = scene.one.daemon.run_dir.socket(scene.one.mdevs["mtty"])
    with pytest.raises(GuestFailed) as refused, Guest(rig, [path]):
        pass
    assert "version reply: Device or resource busy" in str(refused.value)


def test_10000_bytes_of_each_come_back_right_at_the_same_time(scene: Scene) -> None:
    for pattern, (exchange, device) in zip((ONE, TWO), exchanges(scene, "mtty", SIZE, 30.0), strict=True):
        assert foreign(exchange.received, pattern) == b""
        assert exchange.identical
        assert disagreement(exchange, device, 1.0) == ""
    for tenant in scene:
        assert serial.status(tenant.guest, tenant.ports["mtty"][0]).received >= SIZE


def test_mdevs_that_hear_one_another_are_noticed(scene: Scene) -> None:
    """The negative control of the exchange."""

    def heard() -> bool:
        results = [exchange for exchange, _device in exchanges(scene, "crossed", 500, 2.0)]
        return any(foreign(each.received, pattern) for pattern, each in zip((ONE, TWO), results, strict=True))

    eventually(heard, 60)  # on a busy machine one may be done before the other begins


def exchanges(scene: Scene, parent: str, size: int, seconds: float) -> list[tuple[Exchange, int]]:
    """Each guest exchanges its own pattern, both at the same time; with what the devices counted."""
    works = [
        partial(tenant.exchange, pattern, size, parent, seconds)
        for tenant, pattern in zip(scene, (ONE, TWO), strict=True)
    ]
    return at_once(*(partial(tenant.counted, work, parent) for tenant, work in zip(scene, works, strict=True)))


def test_each_conversation_is_carried_by_interrupts_that_guest_and_device_count_alike(scene: Scene) -> None:
    unlike: list[str] = []
    for _attempt in range(5):  # one of them at a quiet moment
        works = [partial(each.converse, f"guest {each.guest.pid}", TIMES) for each in scene]
        talks = at_once(*(partial(each.counted, work) for each, work in zip(scene, works, strict=True)))
        for talk, device in talks:
            assert talk.identical
            assert disagreement(talk, device, 1.0) == ""
        unlike = [disagreement(talk, device, 0.1) for talk, device in talks]
        if not any(unlike):
            return
    pytest.fail(f"in no conversation were the counts alike but for a tenth; in the last: {unlike}")


def test_a_device_that_never_interrupts_is_noticed(scene: Scene) -> None:
    """The negative control of the conversation: the driver waits for an interrupt for ever."""
    guest, (port,) = scene.one.guest, scene.one.ports["mute"]
    irq = serial.status(guest, port).irq
    before = serial.interrupt_count(guest, irq), scene.one.interrupts("mute")
    with pytest.raises(GuestTimeout):
        guest.run(serial.converse_script(port, "hello", 1), 7)
    received = guest.attempt("cat /run/received").output
    talk = Exchange(b"hello\n", received, serial.interrupt_count(guest, irq) - before[0])
    assert not talk.identical
    assert disagreement(talk, scene.one.interrupts("mute") - before[1], 1.0) != ""


def test_both_ports_of_an_mtty_2_carry_data(scene: Scene) -> None:
    for port, pattern in zip(scene.two.ports["mtty"], (ONE, TWO), strict=True):
        assert serial.exchange(scene.two.guest, port, pattern, 1000).identical
        talk = serial.converse(scene.two.guest, port, f"this is {port}", 10)
        assert talk.identical
        assert talk.interrupts >= 10


def test_a_byte_in_one_port_of_an_mtty_2_is_not_in_the_other(scene: Scene) -> None:
    function = functions(scene.two.guest)[0]
    eventually(lambda: function.read(IER) == 0, 30)  # the driver has let go of the port, and reads no more
    function.write(THR, b"x", bar=0)
    assert not function.read(LSR, bar=1) & DATA_READY
    assert function.read(LSR, bar=0) & DATA_READY
    assert function.read(RBR, bar=0) == ord("x")

"""What is said on one connection to a device: every message that came, and what becomes of it. No socket, no thread.

`Session` puts a socket and a thread under it; `Exchange` processes messages one by one. Everything a client asks for is
a step of its device, under the step lock, and so is sending the reply. Region accesses go through `accesses`, what
takes several steps through `long_requests`, all else through `device_requests`.
"""

from time import perf_counter_ns

from mdev_user.errors import DmaFault
from mdev_user.vfio.counters import SLOW_STEP_NS
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.step_lock import StepLock
from mdev_user.vfio_user.accesses import Accesses
from mdev_user.vfio_user.commands import Role
from mdev_user.vfio_user.connection import Answered, Asked, Connection, Event, Negotiated, Refused
from mdev_user.vfio_user.device_requests import DeviceRequests
from mdev_user.vfio_user.eventfd import Eventfds
from mdev_user.vfio_user.framing import Command, reply_message
from mdev_user.vfio_user.guest_memory import GuestMemory
from mdev_user.vfio_user.letting_in import let_in
from mdev_user.vfio_user.long_requests import LongRequests, Steps
from mdev_user.vfio_user.message_dma import Done, MessageDma
from mdev_user.vfio_user.messages import RegionRead, RegionWrite, TrappedRead, TrappedWrite
from mdev_user.vfio_user.outgoing import Sender
from mdev_user.vfio_user.steps import DriverFailed, driver_failed, refused
from mdev_user.vfio_user.transport import close_fds
from mdev_user.vfio_user.traps import Traps

Reply = tuple[bytes, tuple[int, ...]]
"""A message, empty for none, and the fds that travel with it."""
_NOTHING: Reply = (b"", ())


class Conversation:
    """The server's side. A driver's bug raises `DriverFailed`, bytes that nobody can follow `PeerError`: it is over."""

    def __init__(
        self,
        device: VfioDevice,
        step_lock: StepLock,
        memory: GuestMemory,
        eventfds: Eventfds,
        outgoing: Sender,
        traps: Traps,
    ) -> None:
        self.connection = Connection(Role.SERVER)
        self.accesses = Accesses(device)
        self.requests = DeviceRequests(device, memory, eventfds, traps)
        self.dma = MessageDma(self.connection, self._send_of_job, lambda: device.acts)
        self._device = device
        self._step_lock = step_lock
        self._eventfds = eventfds
        self._outgoing = outgoing
        self._traps = traps
        self._long = LongRequests(device, self.accesses)

    def handle_next(self) -> bool:
        """Handle the next of the messages that were received. False when there is none."""
        let_in(self._step_lock)
        with self._step_lock:
            event = self.connection.next_event()
            if event is None:
                return False
            steps = self._long.steps_of(event.request) if isinstance(event, Asked) else None
            if steps is None:
                self._handle(event)
        if steps is not None and isinstance(event, Asked):
            self._handle_long(event, steps)
        if self._outgoing.waiting:
            self._outgoing.drain()
        return True

    def end(self) -> None:
        """Nothing is received any more: forget what the client gave us, and tell who waits for it."""
        with self._step_lock:
            waiting = self.dma.end()
            self._eventfds.close_all()
            self._traps.close()
        for done in waiting:
            self._tell_gone(done)
        close_fds(self.connection.take_fds())

    def _handle(self, event: Event) -> None:
        try:
            reply, fds = self._reply_to(event)
        finally:
            close_fds(event.fds.take())
        self._send(reply, fds)
        self.dma.go_on()  # the device may have been stopped until now

    def _handle_long(self, event: Asked, steps: Steps) -> None:
        reply = b""
        while not reply:
            let_in(self._step_lock)
            with self._step_lock:
                reply = self._next_step(event, steps)
                self._send(b"" if event.no_reply else reply)

    def _next_step(self, event: Asked, steps: Steps) -> bytes:
        """The reply, empty as long as there is another step."""
        started = perf_counter_ns()
        reply = b""
        try:
            next(steps)
        except StopIteration as end:
            reply = reply_message(event.id, event.command, end.value)
        except DriverFailed:  # in one of several accesses
            raise
        except Exception as error:  # noqa: BLE001 - refused() raises on what is not the guest's fault
            reply = refused(self._device.counters, event.id, event.command, error)
        self._note_time(event.command, started)
        return reply

    def _send(self, reply: bytes, fds: tuple[int, ...] = ()) -> None:
        if fds:
            self._outgoing.send_with(reply, fds)
        elif reply:
            self._outgoing.send(reply)

    def _reply_to(self, event: Event) -> Reply:
        match event:
            case Asked():
                reply, fds = self._asked(event)
                return (b"", ()) if event.no_reply else (reply, fds)
            case Answered():
                self._answered(event)
                return b"", ()
            case Negotiated():
                return event.reply, ()
            case Refused():
                self._device.counters.guest_error(event.error)
                return event.reply, ()

    def _asked(self, event: Asked) -> Reply:
        match event.request:
            case RegionRead(offset, region, count):
                return self.accesses.read(event.id, offset, region, count), ()
            case RegionWrite(offset, region, data):
                return self.accesses.write(event.id, offset, region, data), ()
            case TrappedRead(offset, region, count, call, address):
                self._traps.answer(call, address, self.accesses.read(event.id, offset, region, count))
                return _NOTHING
            case TrappedWrite(offset, region, data, call):
                self._traps.written(call, self.accesses.write(event.id, offset, region, data))
                return _NOTHING
            case _:
                return self._perform(event)

    def _perform(self, event: Asked) -> Reply:
        started = perf_counter_ns()
        fds: tuple[int, ...] = ()
        try:
            payload, fds = self.requests.perform(event.request, event.fds)
            reply = reply_message(event.id, event.command, payload)
        except Exception as error:  # noqa: BLE001 - refused() raises on what is not the guest's fault
            reply = refused(self._device.counters, event.id, event.command, error)
        self._note_time(event.command, started)
        return reply, fds

    def _note_time(self, command: int, started: int) -> None:
        elapsed = perf_counter_ns() - started
        if elapsed > SLOW_STEP_NS:
            self._device.counters.slow_step(Command(command).name.lower().replace("_", " "), elapsed)

    def _answered(self, event: Answered) -> None:
        try:
            self.dma.answered(event)
        except Exception as error:
            raise driver_failed(error) from error

    def _send_of_job(self, message: bytes) -> None:
        self._outgoing.send(message)
        if self._outgoing.waiting:
            self._outgoing.drain_in_background()

    def _tell_gone(self, done: Done) -> None:
        with self._step_lock:
            try:
                done(DmaFault("the client went away before it answered"))
            except Exception as error:  # noqa: BLE001 - the session is over: there is only the log to tell
                driver_failed(error)

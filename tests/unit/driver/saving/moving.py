"""What the tests of migration share: a device that is moved to another one by its migration states."""

from collections.abc import Callable

from mdev_user.driver.saving.records import PREFIX, Kind, Reader, Writer
from mdev_user.vfio.migration import Migration
from mdev_user.vfio.migration_states import MigrationState as S
from unit.driver.bench import Bench

MOST = 1 << 20


def everything(migration: Migration, most: int = MOST) -> list[bytes]:
    """All that can be read at the moment."""
    pieces = []
    while piece := migration.read(most):
        assert len(piece) <= most
        pieces.append(piece)
    return pieces


def stream_of(bench: Bench, most: int = MOST) -> bytes:
    """The stream of a device that is stopped for it, and goes on."""
    migration = bench.vfio.migration
    migration.set_state(S.STOP_COPY)
    pieces = everything(migration, most)
    migration.set_state(S.RUNNING)
    return b"".join(pieces)


def give(bench: Bench, *pieces: bytes) -> None:
    """Have a device be what a stream says."""
    migration = bench.vfio.migration
    migration.set_state(S.RESUMING)
    for piece in pieces:
        migration.write(piece)
    migration.set_state(S.RUNNING)


def move(
    here: Bench, there: Bench, while_running: Callable[[], None] = lambda: None, passes: int = 2, most: int = MOST
) -> list[int]:
    """Move a device that goes on meanwhile; ``while_running`` is done before each later pass. Bytes by pass."""
    source, target = here.vfio.migration, there.vfio.migration
    source.set_state(S.PRE_COPY)
    target.set_state(S.RESUMING)
    sizes = []
    for number in range(passes + 1):
        if number == passes:
            source.set_state(S.STOP_COPY)
        pieces = everything(source, most)
        sizes.append(sum(map(len, pieces)))
        for piece in pieces:
            target.write(piece)
        if number < passes:
            while_running()
    target.set_state(S.RUNNING)
    return sizes


def records(stream: bytes) -> list[tuple[Kind, bytes]]:
    """What a stream consists of."""
    return [(kind, bytes(payload)) for kind, payload in Reader().feed(stream[PREFIX.size :])]


def sealed(*given: tuple[Kind, bytes]) -> bytes:
    """A stream of such records, with the checksums that it needs."""
    writer = Writer()
    return writer.begin() + b"".join(writer.record(*each) for each in given)

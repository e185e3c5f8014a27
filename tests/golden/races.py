"""The steps with many writers at once or with many writes, and what each writes down."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from uuid import UUID

from golden.system_calls import perform
from golden.transcript import Answer

_PATIENCE = 30.0


def perform_race(cmd: tuple[str, ...]) -> Answer:
    """Any of `RACES`; the second word of each is the step's name once more."""
    return Answer(0, None, RACES[cmd[0]](*cmd[2:]))


def same_uuid(path: str, uuid: str, writers: str, rounds: str) -> str:
    """Creates of one UUID at once, again and again."""
    won = []
    for _ in range(int(rounds)):
        won.append(_at_once([_writing(path, uuid)] * int(writers)))
        perform(("write", _remove(uuid), "1"))
    told = [f"round{number} ok={each['ok']} errs={_losers(each)} ; " for number, each in enumerate(won[:3])]
    exactly = sum(each["ok"] == 1 for each in won)
    return f"{''.join(told)}rounds={rounds} rounds_with_exactly_one_ok={exactly}"


def removes(path: str, uuid: str, writers: str, rounds: str) -> str:
    """Removes of one mdev at once, again and again."""
    created, answers, winners = 0, Counter[str](), Counter[int]()
    for _ in range(int(rounds)):
        created += perform(("write", path, uuid)).rc == 36
        found = _at_once([_writing(_remove(uuid), "1")] * int(writers))
        winners[found.pop("ok", 0)] += 1
        answers += found
    of_rounds = "".join(f"rounds_with_{number}_ok={winners[number]} " for number in sorted(winners))
    return f"{of_rounds}{''.join(f'{name}={number} ' for name, number in answers.items())}create:ok={created} "


def distinct(path: str, number: str) -> str:
    """Creates of as many UUIDs at once; those that were made are removed."""
    uuids = [str(UUID(int=0xDD << 120 | 0x4000 << 64 | 0x8000 << 48 | each)) for each in range(int(number))]
    answers = _at_once([_writing(path, each) for each in uuids])
    for uuid in uuids:
        perform(("write", _remove(uuid), "1"))
    return "".join(f"{name}={times} " for name, times in sorted(answers.items(), key=lambda each: each[0] != "ok"))


def pairs(path: str, number: str) -> str:
    """Creates and removes, one after another. The recorder measured them."""
    errors = 0
    for index in range(int(number)):
        uuid = f"ee000000-0000-4000-8000-{index:012x}"
        errors += perform(("write", path, uuid)).rc != 36
        errors += perform(("write", _remove(uuid), "1")).rc != 1
    return f"n={number} errors={errors}"


RACES: dict[str, Callable[..., str]] = {
    "race-same": same_uuid,
    "race-remove": removes,
    "race-distinct": distinct,
    "rate": pairs,
}


def _at_once(actions: Sequence[Callable[[], Answer]]) -> Counter[str]:
    """How often each answer came: an errno, or ok."""
    start = Barrier(len(actions))

    def run(action: Callable[[], Answer]) -> str:
        start.wait(_PATIENCE)
        return action().errno or "ok"

    with ThreadPoolExecutor(len(actions)) as pool:
        return Counter(pool.map(run, actions))


def _writing(path: str, data: str) -> Callable[[], Answer]:
    return lambda: perform(("write", path, data))


def _losers(answers: Counter[str]) -> str:
    return " ".join(name for name in answers.elements() if name != "ok")


def _remove(uuid: str) -> str:
    return f"/sys/bus/mdev/devices/{uuid}/remove"

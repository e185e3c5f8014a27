"""One target under the coverage-guided fuzzer, for some seconds: `run` starts this in a process of its own.

``python -m fuzz.guided TARGET CORPUS FINDINGS SECONDS [PLANT]``
"""

import atexit
import logging
import signal
import sys
from functools import partial
from random import Random

import atheris

from fuzz.targets import target_of

with atheris.instrument_imports(include=["mdev_user"]):
    TARGET = target_of(sys.argv[1])

SLOWEST, LARGEST = 10, 2048
"""Seconds of one input, and MiB of this process: what needs more is a finding."""


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """Half of the inputs by the target's own mutator, half by the fuzzer's."""
    chance = Random(seed)
    if TARGET.mutate is None or chance.randrange(2):
        return atheris.Mutate(data, most)
    return TARGET.mutate(data, chance)[:most]


def main(corpus: str, findings: str, seconds: str, plant: str | None = None) -> None:
    logging.disable(logging.WARNING)
    if plant is not None:
        from fuzz.planting import plant_it
        from fuzz.plants import PLANTS

        plant_it(PLANTS[plant], partial(atheris.patch_code, trace_dataflow=True, nested=True))
    options = [
        f"-artifact_prefix={findings}/",
        f"-max_total_time={seconds}",
        f"-max_len={TARGET.longest}",
        f"-timeout={SLOWEST}",
        f"-rss_limit_mb={LARGEST}",
        "-print_final_stats=1",
        "-use_value_profile=1",
    ]
    # A finding is written down only when CPython has ended, and has given SIGALRM back its default, which is to die.
    atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)
    own = {"custom_mutator": mutate} if TARGET.mutate is not None else {}
    atheris.Setup([sys.argv[0], *options, corpus], TARGET.one, **own)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[2:])

"""How long the fuzzer takes to find each planted fault from the seeds alone: ``python -m fuzz.measure [PLANT ...]``."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fuzz.plants import PLANTS
from fuzz.run import fuzz, write_seeds

MOST_SECONDS = 600


def main(names: Sequence[str]) -> int:
    """How many were not found."""
    lost = 0
    print("| fault | target | seconds | inputs | told as |")
    for plant in map(PLANTS.__getitem__, names or list(PLANTS)):
        with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
            corpus = Path(scratch) / "corpus"
            corpus.mkdir()
            write_seeds(plant.target, corpus)
            ran = fuzz(plant.target, MOST_SECONDS, corpus, Path(scratch) / "findings", plant.name)
        lost += ran.found is None
        told = ran.why if ran.found else "NOT FOUND"
        print(f"| {plant.name} | {plant.target} | {ran.seconds:.0f} | {ran.runs} | {told[:120]} |", flush=True)
    return lost


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

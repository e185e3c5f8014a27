"""Runs the coverage-guided fuzzer on some targets, or one input again: what `make fuzz` does.

``python -m fuzz.run [--seconds N] [--plant NAME] [TARGET ...]``    every target by default
``python -m fuzz.run [--plant NAME] TARGET --input FILE``           that input, as it was

Corpora and findings are kept in build/fuzz, which git ignores.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from time import monotonic

from fuzz.planting import plant_it
from fuzz.plants import PLANTS
from fuzz.targets import MODULES, target_of

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "fuzz"
GRACE = 300
"""Seconds to start, and to end."""


@dataclass(frozen=True)
class Ran:
    """One run of the fuzzer on a target."""

    target: str
    seconds: float
    runs: int
    reached: int
    """What the fuzzer counts as coverage: branches, and values compared."""
    found: Path | None
    why: str = ""


def corpus_of(name: str) -> Path:
    """The folder of inputs that reach something, with the seeds in it."""
    folder = BUILD / "corpus" / name
    folder.mkdir(parents=True, exist_ok=True)
    write_seeds(name, folder)
    return folder


def write_seeds(name: str, folder: Path) -> None:
    for seed in target_of(name).seeds():
        path = folder / sha1(seed, usedforsecurity=False).hexdigest()
        if not path.exists():
            path.write_bytes(seed)


def fuzz(name: str, seconds: int, corpus: Path, findings: Path, plant: str | None = None) -> Ran:
    """In a process of its own, since a finding ends it."""
    findings.mkdir(parents=True, exist_ok=True)
    before = set(findings.iterdir())
    command = [sys.executable, "-m", "fuzz.guided", name, str(corpus), str(findings), str(seconds)]
    started = monotonic()
    done = subprocess.run(
        [*command, *([plant] if plant else [])],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + GRACE,
        check=False,
    )
    elapsed = monotonic() - started
    new = sorted(set(findings.iterdir()) - before)
    if done.returncode and not new:
        told = [line for line in done.stderr.splitlines() if not line.startswith("INFO: Instrumenting")]
        raise RuntimeError(f"{name}: the fuzzer ended with {done.returncode}:\n" + "\n".join(told[-40:]))
    return Ran(name, elapsed, _last(r"^#(\d+)", done.stderr), _last(r"\bcov: (\d+)", done.stderr),
               new[0] if new else None, _why(done.stdout + done.stderr))  # fmt: skip


def _last(pattern: str, text: str) -> int:
    found = re.findall(pattern, text, re.MULTILINE)
    return int(found[-1]) if found else 0


def _why(text: str) -> str:
    """The exception, or what the fuzzer itself complains about."""
    told = re.findall(r"^(?:\w+\.)*\w*(?:Error|Finding|Exception|Failed)\b.*|^==\d+== ?ERROR.*", text, re.MULTILINE)
    return str(told[0])[:300] if told else ""


def again(name: str, plant: str | None, path: Path) -> str:
    """The command that does it again."""
    planted = f" --plant {plant}" if plant else ""
    return f"cd tests && ../.venv/bin/python -m fuzz.run{planted} {name} --input {path}"


def run_all(names: Sequence[str], seconds: int, plant: str | None) -> int:
    """How many targets have found something."""
    found = 0
    for name in names:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
            # What a planted fault reaches belongs into no corpus.
            corpus = corpus_of(name) if plant is None else Path(scratch)
            write_seeds(name, corpus)
            ran = fuzz(name, seconds, corpus, BUILD / "findings" / name, plant)
        print(f"{name:12} {ran.seconds:6.0f} s {ran.runs:9} runs, coverage {ran.reached}", flush=True)
        if ran.found:
            found += 1
            print(f"  FOUND {ran.why}\n  {again(name, plant, ran.found)}", flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", choices=[*MODULES, []], metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60, help="of each target")
    parser.add_argument("--plant", choices=list(PLANTS), metavar="NAME", help="with this fault in the code")
    parser.add_argument("--input", type=Path, help="one input, once")
    given = parser.parse_args(arguments)
    if given.input is None:
        return 1 if run_all(given.targets or list(MODULES), given.seconds, given.plant) else 0
    (name,) = given.targets
    target = target_of(name)
    if given.plant:
        plant_it(PLANTS[given.plant])
    target.one(given.input.read_bytes())
    print(f"{name}: nothing is wrong with {given.input}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

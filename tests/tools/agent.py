"""Carries out commands in the namespaces that it was started in: requests are lines of JSON on stdin, as are answers.

Run as a file of its own. It is to be process 1 of a process namespace, so that what it has started ends with it;
it ends when its stdin does.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

started: dict[int, "subprocess.Popen[bytes]"] = {}


def run(request: dict[str, Any]) -> dict[str, Any]:  # Any: JSON, here and below
    try:
        done = subprocess.run(
            request["argv"],
            input=request["stdin"],
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, **request["env"]},
            timeout=request["seconds"],
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return {"status": None, "out": str(error.stdout or ""), "err": f"not ended after {request['seconds']} s"}
    except OSError as error:
        return {"status": 127, "out": "", "err": str(error)}
    return {"status": done.returncode, "out": done.stdout, "err": done.stderr}


def start(request: dict[str, Any]) -> dict[str, Any]:
    with Path(request["log"]).open("ab") as log:
        process = subprocess.Popen(
            request["argv"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **request["env"]}
        )
    started[process.pid] = process
    return {"pid": process.pid}


def stop(request: dict[str, Any]) -> dict[str, Any]:
    process = started.pop(request["pid"])
    process.send_signal(signal.SIGTERM)
    try:
        return {"status": process.wait(request["seconds"])}
    except subprocess.TimeoutExpired:
        process.kill()
        return {"status": None}


def main() -> None:
    todo = {"run": run, "start": start, "stop": stop}
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(todo[request["do"]](request)), flush=True)


main()

"""What an ordinary user does with `mdev-user serve` and `run`; the test looks at what is printed, as JSON.

``python as_user.py UUID LISTENER``: the UUID to use, and a program that prints the uevents that it is told of.
"""

import json
import os
import sys
from pathlib import Path

from daemon.support import eventually
from mdev_user.testing.daemon import RunningDaemon
from tools.running import command, finished

WHO = "id -u; id -g; grep CapEff /proc/self/status; echo 1 > /sys/class/net/lo/mtu"
AS_ROOT = "import os\nassert os.getuid() == 0\n"


CYCLE = """
mdevctl() { echo "# $*"; command mdevctl "$@" 2>&1; echo "[$?]"; }
mdevctl start -u $0 -p mtty --type mtty-2
mdevctl list
mdevctl define -a -u $0
mdevctl stop -u $0
mdevctl list
mdevctl list -d
mdevctl start -u $0
"""
END = """
mdevctl stop -u $0
mdevctl undefine -u $0
mdevctl list -d
"""


def main() -> None:
    uuid, listener = sys.argv[1:]
    found: dict[str, object] = {}

    def run(*words: str) -> list[object]:
        done = finished(command(daemon, *words))
        return [done.returncode, done.stdout, done.stderr]

    with RunningDaemon("mtty") as daemon:
        found["who"] = run("--", "sh", "-c", WHO)
        found["types"] = run("--", "mdevctl", "types")
        found["cycle"] = run("--", "bash", "-c", CYCLE, uuid)
        definitions = Path(os.environ["HOME"], ".config/mdevctl.d/mtty")
        found["definitions"] = [each.name for each in definitions.iterdir()]
        daemon.control.unregister_parent("mtty")
        daemon.control.register_parent("mtty")
        found["autostarted"] = eventually(lambda: [each.uuid for each in daemon.control.mdevs()], "mdevctl starts it")
        found["end"] = run("--", "bash", "-euc", END, uuid)
        found["private"] = run("--events=private", "--", sys.executable, "-c", AS_ROOT + listener)
        found["host"] = run("--events=host", "--", "true")
    print(json.dumps(found))


if __name__ == "__main__":
    main()

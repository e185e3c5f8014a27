"""Writes each UUID of stdin to the `create` file beside it, as fast as it can; prints `UUID errno` for each.

Lines are `FILE UUID`. Begins when the file named by its argument exists, so that many begin together; ends at the first
error that says that the daemon is gone.
"""

import errno
import os
import sys
from pathlib import Path
from time import sleep

_GONE = {errno.ENOTCONN, errno.ECONNABORTED, errno.ENOENT}


def main() -> None:
    work = [line.split() for line in sys.stdin]
    while not Path(sys.argv[1]).exists():
        sleep(0.001)
    for file, uuid in work:
        number = _write(file, uuid)
        print(uuid, number, flush=True)
        if number in _GONE:
            return


def _write(file: str, uuid: str) -> int:
    try:
        fd = os.open(file, os.O_WRONLY)
        try:
            os.write(fd, uuid.encode())
        finally:
            os.close(fd)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


main()

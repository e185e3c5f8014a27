"""A vfio-user client as a program: takes the lines "read REGION OFFSET" and "write REGION OFFSET BYTE" until killed."""

import sys

from mdev_user.vfio_user.client import Client


def main() -> None:
    client = Client(sys.argv[1], timeout=20)
    print("connected", flush=True)
    for line in sys.stdin:
        command, *numbers = line.split()
        region, offset, *value = map(int, numbers)
        if command == "read":
            print(client.region_read(region, offset, 1)[0], flush=True)
        else:
            client.region_write(region, offset, bytes(value))
            print("done", flush=True)


if __name__ == "__main__":
    main()

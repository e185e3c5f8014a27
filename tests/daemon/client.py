"""A vfio-user client as a program: reads "read REGION OFFSET" and "write REGION OFFSET BYTE" lines until it is killed."""

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

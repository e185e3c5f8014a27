"""What a mover comes to an mdev for."""

from enum import StrEnum


class Purpose(StrEnum):
    """Which way the state goes."""

    SAVE = "save"
    LOAD = "load"

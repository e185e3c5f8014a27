"""The targets by name. Each is imported when it is wanted, since a fuzzer instruments what is imported after it."""

from importlib import import_module

from fuzz.target import Target

MODULES = {
    "codec": "fuzz.codec",
    "version": "fuzz.version",
    "connection": "fuzz.connection",
    "session": "fuzz.session",
    "config": "fuzz.config_space",
    "loader": "fuzz.loader",
    "stream": "fuzz.stream",
    "virtqueue": "fuzz.virtqueue",
    "gpu": "fuzz.gpu",
}


def target_of(name: str) -> Target:
    made = import_module(MODULES[name]).TARGET
    assert isinstance(made, Target)
    return made

"""The mounted tree as a fixture."""

from collections.abc import Iterator

import pytest

from sysfs.mounted import Mounted, mounted_scene


@pytest.fixture
def mounted() -> Iterator[Mounted]:
    with mounted_scene() as mounted:
        yield mounted

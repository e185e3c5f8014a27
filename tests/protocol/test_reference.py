"""docs/reference/vfio-user.md has a row for each command and each feature that we know, and for no other."""

import re
from pathlib import Path

import pytest

from mdev_user.vfio_user.commands import KINDS
from mdev_user.vfio_user.framing import Command
from mdev_user.vfio_user.messages import Feature

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "vfio-user.md"


@pytest.fixture(autouse=True)
def loop() -> None:
    """Nothing is served here, so once is enough."""


def test_every_command_has_a_row() -> None:
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", PAGE.read_text(), re.MULTILINE)
    assert [(int(number), name) for number, name in rows] == [
        (number, Command(number).name) for number in sorted(KINDS)
    ]


def test_every_feature_has_a_row() -> None:
    rows = re.findall(r"^\| (\d+|0x[0-9A-F]+) ([A-Z_]+) \|", PAGE.read_text(), re.MULTILINE)
    assert [(int(number, 0), name) for number, name in rows] == [(feature.value, feature.name) for feature in Feature]

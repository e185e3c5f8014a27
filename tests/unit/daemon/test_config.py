"""The configuration: what a file and the command line make together, and the text of every complaint."""

from pathlib import Path

import pytest

from mdev_user.daemon import specification
from mdev_user.daemon.config import Autostart, Config, Given, LogLevel, Restart, load_config
from mdev_user.errors import ConfigError


@pytest.fixture(autouse=True)
def _drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specification, "installed_drivers", lambda: ["mtty", "mbochs"])


def load(folder: Path, text: str, given: Given | None = None) -> Config:
    file = folder / "config.toml"
    file.write_text(text)
    return load_config(file, given or Given(run_dir=folder))


def test_without_a_file_there_are_defaults(tmp_path: Path) -> None:
    config = load_config(None, Given(run_dir=tmp_path, parents=["mtty"]))
    assert (config.log_level, config.restart) == (LogLevel.INFO, Restart.ALWAYS)
    assert config.autostart is Autostart.MDEVCTL
    assert [parent.text for parent in config.parents] == ["mtty"]


def test_a_file_says_everything(tmp_path: Path) -> None:
    (tmp_path / "card.py").touch()
    text = """
        run_dir = "run"
        log_level = "debug"
        restart = "never"
        autostart = "never"
        [[parent]]
        driver = "mtty"
        name = "first"
        host = "shared"
        ports = 24
        fast = true
        rate = 0.5
        [[parent]]
        driver = "card.py:Card"
        host = "shared"
    """
    config = load(tmp_path, text, Given())
    assert (config.run_dir, config.log_level, config.restart) == (tmp_path / "run", LogLevel.DEBUG, Restart.NEVER)
    assert config.autostart is Autostart.NEVER
    first, second = config.parents
    assert first.text == "mtty,name=first,host=shared,ports=24,fast=true,rate=0.5"
    assert (second.name, second.file, second.host) == ("card", tmp_path / "card.py", "shared")


def test_the_command_line_is_over_the_file(tmp_path: Path) -> None:
    text = 'run_dir = "a"\nlog_level = "debug"\n[[parent]]\ndriver = "mtty"\nports = 1\n[[parent]]\ndriver = "mbochs"'
    given = Given(run_dir=tmp_path / "b", log_level=LogLevel.ERROR, parents=["mtty,ports=2", "mtty,name=more"])
    config = load(tmp_path, text, given)
    assert (config.run_dir, config.log_level) == (tmp_path / "b", LogLevel.ERROR)
    assert [parent.text for parent in config.parents] == ["mtty,ports=2", "mbochs", "mtty,name=more"]


KEYS = "(there are: run_dir, log_level, restart, reload, autostart, parent)"
WRONG = {
    'log_level = "loud"': "log_level: expected one of debug, info, warning, error, given 'loud'",
    'log_level = "warn"': "log_level: expected one of debug, info, warning, error, given 'warn'; "
    "did you mean 'warning'?",
    "log_level = 3": "log_level: expected one of debug, info, warning, error, given 3",
    'restart = "alway"': "restart: expected one of always, never, given 'alway'; did you mean 'always'?",
    "restart = true": "restart: expected one of always, never, given True",
    "run_dir = []": "run_dir: expected the path of a folder, given an array",
    'run_dir = ""': "run_dir: expected the path of a folder, given ''",
    'run_dri = "x"': f"unknown key 'run_dri'; did you mean 'run_dir'? {KEYS}",
    "[[parents]]": f"unknown key 'parents'; did you mean 'parent'? {KEYS}",
    "zzz = 1": f"unknown key 'zzz' {KEYS}",
    "[parent]\ndriver='mtty'": "parent: expected [[parent]] tables, given a table",
    "parent = 1": "parent: expected [[parent]] tables, given 1",
    "parent = ['mtty']": "parent: expected [[parent]] tables, given an array",
    "[[parent]]": "parent 1: expected the key 'driver', given nothing",
    "[[parent]]\ndrivr='mtty'": "parent 1: expected the key 'driver', given drivr; is it meant by 'drivr'?",
    "[[parent]]\ndriver='mtty'\n[[parent]]\ndriver='mtyt'": "parent 2: no parent driver 'mtyt' is installed; did you "
    "mean 'mtty'? (there are: mtty, mbochs; a file's is given as FILE.py:CLASS)",
    "[[parent]]\ndriver='mtty'\nports=[1]": "parent 1: ports: expected a text, a number, true or false, given an array",
    "[[parent]]\ndriver='mtty'\n'a b'=1": "parent 1: parent mtty: expected an option's key of lower-case letters, "
    "digits and _ (the first a letter), given 'a b'",
    "[[parent]]\ndriver='mtty'\n[[parent]]\ndriver='mtty'\nports=2": "two parents are named 'mtty' (mtty and "
    "mtty,ports=2); give one of them another name=",
    "log_level": "expected TOML: Expected '=' after a key in a key/value pair (at end of document)",
}


@pytest.mark.parametrize(("text", "message"), WRONG.items(), ids=range(len(WRONG)))
def test_a_wrong_file_is_told_with_its_name_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert str(caught.value) == f"{tmp_path / 'config.toml'}: {message}"


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file or directory$"):
        load_config(tmp_path / "none.toml", Given(run_dir=tmp_path))


def test_a_file_that_is_not_text_is_told(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match=r"config\.toml: expected UTF-8 text, given byte 0xff$"):
        load_config(file, Given(run_dir=tmp_path))


def test_two_arguments_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^two parents are named 'mtty' \(mtty and mtty,ports=2\)"):
        load_config(None, Given(run_dir=tmp_path, parents=["mtty", "mtty,ports=2"]))

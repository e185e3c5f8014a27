"""Building the native loop: what is missing is told, and an installation goes on without it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "build_native.py"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, which would build into a folder of the test's."""
    spec = importlib.util.spec_from_file_location("build_native", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / module.FOLDER).mkdir(parents=True)
    headers = tmp_path / "include"
    headers.mkdir()
    (headers / "Python.h").touch()
    monkeypatch.setattr(module.sysconfig, "get_path", lambda _name: str(headers))
    return module


def compiler(script: ModuleType, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let the compiler be a program in Python."""
    path = script.ROOT / "compiler.py"
    path.write_text(code)
    values = {"CC": f"{sys.executable} {path}", "EXT_SUFFIX": ".so"}
    monkeypatch.setattr(script.sysconfig, "get_config_var", values.get)


class Hook:
    """What hatchling gives its hooks."""

    def __init__(self, target: str = "wheel") -> None:
        self.target_name = target
        self.app = self
        self.warnings: list[str] = []

    def display_warning(self, text: str) -> None:
        self.warnings.append(text)


WRITES = """
import sys
from pathlib import Path
Path(sys.argv[sys.argv.index("-o") + 1]).write_text(" ".join(sys.argv))
"""


def test_it_is_built_into_the_package(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(script, monkeypatch, WRITES)
    library = script.build()
    assert library == script.FOLDER / "_native.so"
    command = (script.ROOT / library).read_text()
    assert all(f" {name}.c" in command for name in ("loop", "plain_table", "step_lock"))


@pytest.mark.parametrize(
    ("missing", "told"), [("headers", "python3-dev"), ("compiler", "gcc"), ("sense", "no sense in it")]
)
def test_what_is_missing_is_told_and_the_installation_goes_on(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, missing: str, told: str
) -> None:
    if missing == "headers":
        (script.ROOT / "include" / "Python.h").unlink()
    elif missing == "compiler":
        monkeypatch.setattr(script.sysconfig, "get_config_var", lambda _name: "/no/compiler")
    else:
        compiler(script, monkeypatch, "import sys\nsys.exit('no sense in it')")
    with pytest.raises(script.CannotBuild, match=told):
        script.build()
    data: dict[str, Any] = {"artifacts": []}
    hook = Hook()
    script.NativeLoop.initialize(hook, "standard", data)
    assert data == {"artifacts": []}
    assert told in hook.warnings[0]


def test_a_wheel_with_it_is_of_this_machine_and_a_source_archive_has_none(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler(script, monkeypatch, WRITES)
    data: dict[str, Any] = {"artifacts": []}
    script.NativeLoop.initialize(Hook("sdist"), "standard", data)
    assert data == {"artifacts": []}
    script.NativeLoop.initialize(Hook(), "editable", data)
    assert data == {"artifacts": [str(script.FOLDER / "_native.so")], "infer_tag": True, "pure_python": False}

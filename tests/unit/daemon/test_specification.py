"""A parent's specification: what it means, and what is said of a wrong one."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdev_user.daemon import specification
from mdev_user.daemon.specification import ParentSpecification, installed_drivers, make_parent, parse_parent
from mdev_user.errors import ConfigError


@pytest.fixture
def card(tmp_path: Path) -> Path:
    path = tmp_path / "card.py"
    path.write_text("class Card: pass")
    return path


def parent(driver: str, name: str, host: str, **options: str) -> ParentSpecification:
    return ParentSpecification(driver=driver, name=name, host=host, options=options)


def test_a_driver_alone_has_its_own_name_and_a_host_for_itself() -> None:
    assert parse_parent("mtty") == parent("mtty", "mtty", "mtty")


def test_name_and_host_are_ours_and_the_rest_the_drivers() -> None:
    given = parse_parent("mtty,name=4d44:00:01.0,host=serial,ports=24,label=a=b")
    assert given == parent("mtty", "4d44:00:01.0", "serial", ports="24", label="a=b")


def test_busy_polling_is_ours_too_and_said_again() -> None:
    parsed = parse_parent("mtty,busy_poll=50,ports=2")
    assert (parsed.busy_poll, parsed.options) == (50, {"ports": "2"})
    assert parse_parent(parsed.text) == parsed
    assert parse_parent("mtty").busy_poll == 0


def test_the_host_follows_the_name() -> None:
    assert parse_parent("mtty,name=other").host == "other"


def test_a_class_gives_its_name_in_lower_case(card: Path) -> None:
    assert parse_parent(f"{card}:Card") == parent(f"{card}:Card", "card", "card")


def test_a_relative_file_is_of_the_folder_given(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_parent("card.py:Card", card.parent).file == card
    monkeypatch.chdir(card.parent)
    assert parse_parent("./card.py:Card").file == card


def test_commas_are_written_twice(tmp_path: Path) -> None:
    path = tmp_path / "a,b.py"
    path.touch()
    written = f"{str(path).replace(',', ',,')}:Card,label=x,,y"
    parsed = parse_parent(written)
    assert (parsed.file, parsed.options) == (path, {"label": "x,y"})
    assert parsed.text == written


@given(
    st.sampled_from(["mtty", "card"]),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,9}", fullmatch=True),
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True).filter(lambda key: key not in {"name", "host"}),
        st.text(st.characters(exclude_categories=("C", "Z"))).filter(str.isprintable),
    ),
)
def test_text_parses_to_the_value_it_is_of(name: str, host: str, options: dict[str, str]) -> None:
    value = make_parent("mtty", {"name": name, "host": host, **options})
    assert parse_parent(value.text) == value


NAME_FORM = "to be 1 to 64 letters, digits and . _ : - (the first a letter or a digit)"
FORM = "DRIVER[,key=value...] or FILE.py:CLASS[,key=value...]"
MTYT = "(there are: mtty; a file's is given as FILE.py:CLASS)"
KEY_FORM = "an option's key of lower-case letters, digits and _ (the first a letter)"
WRONG = {
    "": f"expected a parent, {FORM}, given ''",
    "mtyt": f"no parent driver 'mtyt' is installed; did you mean 'mtty'? {MTYT}",
    "quux": f"no parent driver 'quux' is installed {MTYT}",
    "../mtty": f"expected a parent, {FORM}, given '../mtty'",
    "mtty\n": f"expected a parent, {FORM}, of at most 4096 printable characters",
    "mtty," + "x" * 5000: f"expected a parent, {FORM}, of at most 4096 printable characters",
    "mtty,ports": f"parent 'mtty,ports': expected key=value after each comma, given 'ports'; the form is {FORM}",
    "mtty,": f"parent 'mtty,': expected key=value after each comma, given ''; the form is {FORM}",
    "mtty,=1": f"parent 'mtty,=1': expected key=value after each comma, given '=1'; the form is {FORM}",
    "mtty,PORTS=1": f"parent mtty: expected {KEY_FORM}, given 'PORTS'; did you mean 'ports'?",
    "mtty,a b=1": f"parent mtty: expected {KEY_FORM}, given 'a b'",
    "mtty,a=1,a=2": "parent 'mtty,a=1,a=2': a is given twice",
    "mtty,name=": f"expected a parent's name {NAME_FORM}, given ''",
    "mtty,name=..": f"expected a parent's name {NAME_FORM}, given '..'",
    "mtty,name=a/b": f"expected a parent's name {NAME_FORM}, given 'a/b'",
    "mtty,host=-": f"expected a parent's host {NAME_FORM}, given '-'",
    "mtty,busy_poll=-1": "parent mtty: busy_poll: expected 0 to 10000 microseconds, given '-1'",
    "mtty,busy_poll=10001": "parent mtty: busy_poll: expected 0 to 10000 microseconds, given '10001'",
    "card.py": "expected FILE.py:CLASS, given 'card.py'",
    "card.py:": "expected FILE.py:CLASS, given 'card.py:'",
    "card.py:a b": "expected FILE.py:CLASS, given 'card.py:a b'",
    "card.txt:Card": "expected FILE.py:CLASS, given 'card.txt:Card'",
    "/no/card.py:Card": "parent '/no/card.py:Card': there is no file /no/card.py",
}


@pytest.mark.parametrize(("text", "message"), WRONG.items(), ids=range(len(WRONG)))
def test_a_wrong_specification_is_told(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specification, "installed_drivers", lambda: ["mtty"])
    with pytest.raises(ConfigError) as caught:
        parse_parent(text)
    assert str(caught.value) == message


def test_installed_drivers_are_found_without_being_imported() -> None:
    assert "mtty" in installed_drivers()

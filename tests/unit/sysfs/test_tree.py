"""kernfs's rules for nodes."""

import errno
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

import pytest

from mdev_user.errors import AlreadyExists, InvalidValue, MdevUserError, NoDevice
from mdev_user.sysfs.tree import PAGE, Attribute, Directory, Link, Rule, Tree
from unit.sysfs.scene import PATIENCE

taken: list[bytes] = []
RULE: Rule[str] = Rule(0o644, lambda subject: f"{subject}\n", lambda _subject, data: taken.append(data))

DEAF: Rule[str] = Rule(0o666)


@pytest.fixture
def tree() -> Tree:
    tree = Tree(owner=(7, 8))
    tree.add_directory("bus/mdev/devices")
    tree.add_attribute("bus/mdev/text", RULE, "value")
    tree.add_link("bus/mdev/up", "bus")
    taken.clear()
    return tree


def attribute(tree: Tree, path: str = "bus/mdev/text") -> Attribute[object]:
    node = tree.lookup(path)
    assert isinstance(node, Attribute)
    return node


def directory(tree: Tree, path: str) -> Directory:
    node = tree.lookup(path)
    assert isinstance(node, Directory)
    return node


def test_a_path_leads_to_its_node(tree: Tree) -> None:
    assert tree.lookup("") is tree.root
    assert isinstance(tree.lookup("bus/mdev"), Directory)
    assert isinstance(tree.lookup("bus/mdev/up"), Link)
    assert [tree.lookup(path) for path in ("no", "bus/no", "bus/mdev/text/below", "bus/mdev/up/mdev")] == [None] * 4


def test_every_node_has_its_own_number_and_the_owner_of_the_tree(tree: Tree) -> None:
    nodes = [tree.root, *(node for _, node in tree.walk())]
    assert len({node.st_ino for node in nodes}) == len(nodes)
    assert {(node.uid, node.gid) for node in nodes} == {(7, 8)}


def test_modes_and_sizes_are_those_of_sysfs(tree: Tree) -> None:
    found = {path: (node.mode, node.size, node.nlink) for path, node in tree.walk()}
    assert found["bus/mdev/text"] == (0o644, 4096, 1)
    assert found["bus/mdev/up"] == (0o777, 0, 1)
    assert found["bus/mdev/devices"] == (0o755, 0, 2)


def test_links_of_a_directory_count_subdirectories_only(tree: Tree) -> None:
    mdev = directory(tree, "bus/mdev")
    assert mdev.nlink == 3
    tree.add_directory("bus/mdev/drivers")
    assert mdev.nlink == 4
    tree.remove("bus/mdev/drivers")
    tree.remove("bus/mdev/up")
    tree.remove("bus/mdev/text")
    assert mdev.nlink == 3


def test_links_are_relative_to_their_directory(tree: Tree) -> None:
    tree.add_directory("devices/a/b")
    for path, target, text in (
        ("devices/a/b/down", "devices/a/b/c", "c"),
        ("devices/a/b/side", "devices/a/c", "../c"),
        ("devices/a/b/self", "devices/a/b", "../b"),
        ("devices/a/b/above", "devices/a", "../../a"),
        ("devices/a/b/far", "bus/mdev", "../../../bus/mdev"),
    ):
        tree.add_link(path, target)
        node = tree.lookup(path)
        assert isinstance(node, Link)
        assert node.target == text


def test_a_name_is_given_once(tree: Tree) -> None:
    for add in (
        lambda: tree.add_attribute("bus/mdev/text", RULE, ""),
        lambda: tree.add_link("bus/mdev/text", "bus"),
        lambda: tree.add_directory("bus/mdev/text"),
        lambda: tree.add_directory("bus/mdev/text/below"),
    ):
        with pytest.raises(AlreadyExists):
            add()


def test_nothing_is_added_where_there_is_no_directory(tree: Tree) -> None:
    with pytest.raises(InvalidValue):
        tree.add_attribute("no/text", RULE, "")


def test_removing_a_directory_kills_all_below_it(tree: Tree) -> None:
    text, devices = attribute(tree), directory(tree, "bus/mdev/devices")
    tree.remove("bus")
    assert text.dead
    assert devices.dead
    assert tree.lookup("bus/mdev/devices") is None
    assert list(tree.walk()) == []
    tree.remove("bus")
    tree.remove("no/such")


def test_a_directory_that_holds_something_stays(tree: Tree) -> None:
    tree.remove_if_empty("bus/mdev")
    assert tree.lookup("bus/mdev")
    tree.remove_if_empty("bus/mdev/devices")
    assert tree.lookup("bus/mdev/devices") is None
    tree.remove_if_empty("bus/mdev/devices")


@pytest.mark.parametrize("use", [Attribute.show, lambda text: text.store(b"x")])
def test_a_dead_attribute_answers_enodev(tree: Tree, use: Callable[[Attribute[object]], object]) -> None:
    text = attribute(tree)
    tree.remove("bus/mdev/text")
    tree.add_attribute("bus/mdev/text", RULE, "another")
    with pytest.raises(NoDevice) as caught:
        use(text)
    assert caught.value.errno == errno.ENODEV
    assert taken == []


@pytest.mark.parametrize("use", [Attribute.show, lambda text: text.store(b"x")])
def test_what_is_not_there_to_read_or_write_is_eio(tree: Tree, use: Callable[[Attribute[object]], object]) -> None:
    tree.add_attribute("bus/deaf", DEAF, "")
    with pytest.raises(MdevUserError) as caught:
        use(attribute(tree, "bus/deaf"))
    assert caught.value.errno == errno.EIO


def test_a_store_takes_a_page_and_says_how_much_it_took(tree: Tree) -> None:
    text = attribute(tree)
    assert [text.store(b"a" * size) for size in (1, PAGE, PAGE + 1, 70_000)] == [1, PAGE, PAGE, PAGE]
    assert [len(data) for data in taken] == [1, PAGE, PAGE, PAGE]


def test_a_show_gives_at_most_a_page(tree: Tree) -> None:
    tree.add_attribute("long", RULE, "x" * 5000)
    assert len(attribute(tree, "long").show()) == PAGE


def test_mode_and_owner_stay_as_they_were_set(tree: Tree) -> None:
    text = attribute(tree)
    text.chmod(0o100600)
    text.chown(1000, -1)
    assert (text.mode, text.uid, text.gid) == (0o600, 1000, 8)
    text.chown(-1, 1000)
    assert (text.uid, text.gid) == (1000, 1000)


def test_who_owns_a_directory_is_told_first_and_may_be_refused(tree: Tree) -> None:
    told: list[tuple[int, int]] = []
    devices = directory(tree, "bus/mdev/devices")
    devices.on_chown = lambda uid, gid: told.append((uid, gid))
    devices.chown(1000, -1)
    assert (told, devices.uid, devices.gid) == ([(1000, -1)], 1000, 8)

    def refuse(_uid: int, _gid: int) -> None:
        raise PermissionError(errno.EPERM, "no")

    devices.on_chown = refuse
    with pytest.raises(PermissionError):
        devices.chown(0, 0)
    assert (devices.uid, devices.gid) == (1000, 8)


def test_readers_see_whole_nodes_while_one_writes(tree: Tree) -> None:
    failures: list[BaseException] = []
    done = False

    def read() -> None:
        try:
            while not done:
                directory(tree, "bus").entries()
                for path, node in tree.walk():
                    assert path
                    assert node.nlink >= 1
                with suppress(NoDevice, AssertionError):
                    attribute(tree, "bus/mdev/a7/text").show()
        except BaseException as error:  # noqa: BLE001 - the test's own thread reports it
            failures.append(error)

    readers = [Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(3000):
        path = f"bus/mdev/a{number % 10}"
        tree.add_directory(path)
        tree.add_attribute(f"{path}/text", RULE, "")
        tree.remove(path)
    done = True
    for reader in readers:
        reader.join(PATIENCE)
    assert failures == []
    assert directory(tree, "bus/mdev").nlink == 3

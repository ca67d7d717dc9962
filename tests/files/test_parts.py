"""Part files: the first stays, processes share them, and one of them joins them."""

import shutil

import numpy as np
import pytest

from smoothsr.files.parts import NotLastError, Parts

NAMES = ["a", "b", "c", "d", "e"]


def one(value):
    return {"value": np.array(value)}


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.suffix != ".npz"]


def test_what_is_added_is_read(tmp_path):
    parts = Parts(tmp_path / "new" / "parts")
    arrays = {"x": np.arange(6, dtype=np.uint8).reshape(2, 3), "y": np.array([0.5])}
    parts.add("a", arrays)
    found = parts.read("a")
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    assert found["x"].dtype == np.uint8
    assert leftovers(parts.folder) == []


def test_a_large_array_is_read_in_pieces_and_told_if_it_is_damaged(tmp_path):
    parts, array = Parts(tmp_path / "p"), np.arange(60.0).reshape(3, 20)
    parts.add("large", array)
    assert parts.missing(["large", "b"]) == ["b"]
    found = parts.array("large")
    assert isinstance(found, np.memmap)
    assert np.array_equal(found[:, 5:7], array[:, 5:7])
    [file] = parts.folder.iterdir()
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"large.npy is damaged: delete it"):
        parts.array("large")
    with pytest.raises(FileNotFoundError):
        parts.array("b")


def test_the_first_of_several_stays(tmp_path):
    for rank in (0, 1):
        Parts(tmp_path, rank, 2).add("a", one(rank))
    assert Parts(tmp_path).read("a")["value"] == 0
    assert [Parts(tmp_path, rank, 2).agree("n", 10 + rank) for rank in (1, 0)] == [11, 11]
    assert leftovers(tmp_path) == []


def test_a_part_that_is_not_completely_written_is_not_there(tmp_path, monkeypatch):
    def stop(*_arguments, **_arrays):
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", stop)
    with pytest.raises(KeyboardInterrupt):
        Parts(tmp_path / "p").add("a", one(1))
    assert Parts(tmp_path / "p").missing(["a"]) == ["a"]
    assert not (tmp_path / "p").exists()


def test_shares_are_all_parts_once_and_leave_out_what_is_there(tmp_path):
    places = [Parts(tmp_path, rank, 3) for rank in range(3)]
    assert sorted(name for parts in places for name in parts.share(NAMES)) == NAMES
    places[0].add("d", one(0))
    assert [parts.share(NAMES) for parts in places] == [["a"], ["b", "e"], ["c"]]
    assert Parts(tmp_path).share(NAMES) == ["a", "b", "c", "e"]


def test_exactly_one_process_is_the_last(tmp_path):
    places = [Parts(tmp_path, rank, 2) for rank in range(2)]
    for name in NAMES[:-1]:
        places[0].add(name, one(0))
    with pytest.raises(NotLastError, match="4 of 5 parts are there"):
        places[0].require_last(NAMES)
    places[0].add("e", one(0))
    places[1].require_last(NAMES)
    with pytest.raises(NotLastError, match="process 1 joins them"):
        places[0].require_last(NAMES)
    places[1].require_last(NAMES)  # started again
    Parts(tmp_path).require_last(NAMES)  # alone
    Parts(tmp_path, 0, 2).require_last(["b", "a"])  # parts of other options


def test_a_folder_that_the_last_process_has_removed_is_joined(tmp_path, monkeypatch):
    parts = Parts(tmp_path / "parts", 0, 2)
    monkeypatch.setattr(Parts, "missing", lambda *_: [])  # all were there a moment ago
    with pytest.raises(NotLastError, match="joined"):
        parts.require_last(NAMES)
    assert not parts.folder.exists()


def test_removed_parts_are_gone_at_once(tmp_path, monkeypatch):
    """A process that comes late must find no folder, not half of one, and never be the last."""
    parts, late = Parts(tmp_path / "p", 0, 2), Parts(tmp_path / "p", 1, 2)
    parts.add("a", one(0))
    parts.require_last(["a"])
    monkeypatch.setattr(Parts, "missing", lambda *_: [])  # all were there a moment ago
    real = shutil.rmtree

    def meanwhile(*arguments, **options):
        with pytest.raises(NotLastError):
            late.require_last(["a"])
        real(*arguments, **options)

    monkeypatch.setattr(shutil, "rmtree", meanwhile)
    (tmp_path / "p" / "a_last_of_2.npz").unlink()  # removed first
    parts.remove()
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_a_damaged_part_is_told(tmp_path, content):
    parts = Parts(tmp_path)
    parts.add("a", {"x": np.arange(1000.0)})
    file = tmp_path / "a.npz"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1  # one bit of a number
    file.write_bytes(bytes(data) if content is None else content)
    with pytest.raises(ValueError, match=r"a\.npz is damaged: delete it"):
        parts.read("a")
    with pytest.raises(FileNotFoundError):
        parts.read("b")


def test_what_the_first_gave_is_returned_and_dropped_if_it_is_alone(tmp_path):
    parts = Parts(tmp_path / "p")
    assert parts.first("k_probe", {"value": np.array(1)})["value"] == 1
    assert parts.first("k_probe", {"value": np.array(2)})["value"] == 1
    parts.add("k_tile_0", {"value": np.array(3)})
    parts.drop_alone("k_probe")
    assert len([*parts.folder.iterdir()]) == 2
    (parts.folder / "k_tile_0.npz").unlink()
    parts.drop_alone("k_probe")
    assert not parts.folder.exists()
    parts.drop_alone("k_probe")  # nothing is there


def test_a_part_that_another_process_adds_to_is_no_error(tmp_path, monkeypatch):
    parts = Parts(tmp_path / "p")
    parts.add("probe", one(1))

    def added_meanwhile(folder):
        raise OSError(39, "Directory not empty", str(folder))

    monkeypatch.setattr("pathlib.Path.rmdir", added_meanwhile)
    parts.drop_alone("probe")
    assert parts.missing(["probe"]) == ["probe"]


def test_a_part_that_is_removed_lets_another_process_be_the_last(tmp_path):
    """As is said of one that is damaged: delete it, and start again."""
    zero, one_ = Parts(tmp_path, 0, 2), Parts(tmp_path, 1, 2)
    for parts in (zero, one_):
        for name in parts.share(NAMES):
            parts.add(name, one(0))
    one_.require_last(NAMES)  # and ends, since "a" is damaged
    (tmp_path / "a.npz").unlink()
    assert one_.share(NAMES) == []
    assert zero.share(NAMES) == ["a"]
    zero.add("a", one(0))
    zero.require_last(NAMES)


def test_parts_are_renewed_before_any_process_adds_one_again(tmp_path):
    found = []

    def together(name):
        found.append((name, sorted(path.stem for path in tmp_path.iterdir())))
        Parts(tmp_path).add("a_new", one(0))

    for name in ("a_old", "b"):
        Parts(tmp_path).add(name, one(0))
    Parts(tmp_path, 0, 2, together).renew("a_*")
    assert found == [("a_*", ["b"])]
    assert Parts(tmp_path).missing(["a_new", "b"]) == []


def test_all_join_once_all_parts_are_there(tmp_path):
    waited = []
    places = [Parts(tmp_path, rank, 2, waited.append, all_join=True) for rank in range(2)]
    for name in NAMES:
        places[0].add(name, one(0))
    for place in places:
        place.wait_to_join(NAMES)
    assert waited == [NAMES[0]] * 2
    with pytest.raises(ValueError, match="all_join takes together"):
        Parts(tmp_path, 0, 2, all_join=True)


def test_only_files_of_parts_are_parts(tmp_path):
    for name in ("a.txt", "a.npz.1234.part", "a"):
        (tmp_path / name).touch()
    assert Parts(tmp_path).missing(["a"]) == ["a"]


def test_a_folder_that_goes_while_it_is_read_has_no_parts(tmp_path, monkeypatch):
    parts = Parts(tmp_path / "p")
    parts.add("a", one(0))

    def gone(*_):
        raise FileNotFoundError

    monkeypatch.setattr("pathlib.Path.iterdir", gone)
    monkeypatch.setattr("pathlib.Path.glob", gone)
    assert parts.missing(["a"]) == ["a"]
    parts.drop("a")


def test_what_is_added_while_parts_are_removed_goes_too(tmp_path, monkeypatch):
    parts, real = Parts(tmp_path / "p"), shutil.rmtree
    parts.add("a", one(0))

    def meanwhile(folder, **options):
        monkeypatch.setattr(shutil, "rmtree", real)
        real(folder)
        folder.mkdir()
        (folder / "late").touch()

    monkeypatch.setattr(shutil, "rmtree", meanwhile)
    parts.remove()
    assert [*tmp_path.iterdir()] == []


def test_parts_that_a_shared_disk_shows_later_are_waited_for(tmp_path, monkeypatch):
    parts = Parts(tmp_path, 0, 2, together=lambda _: None)
    for name in NAMES[:-1]:
        parts.add(name, one(0))
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            parts.add(NAMES[-1], one(0))

    monkeypatch.setattr("time.sleep", sleep)
    parts.meet(NAMES)
    assert len(slept) == 3
    with pytest.raises(OSError, match=r"f is not seen in .*: is it a shared disk"):
        parts.meet([*NAMES, "f"])
    assert sum(slept) == pytest.approx(60, abs=1)


def test_nobody_waits_for_parts_that_are_joined_and_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waits"))
    late = Parts(tmp_path / "p", 0, 2, together=lambda _: None)
    with pytest.raises(NotLastError):
        late.require_last(NAMES)

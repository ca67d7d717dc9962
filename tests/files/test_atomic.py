"""Files appear whole or not at all, sets of them too; folders are tried before the work."""

import os

import pytest

from smoothsr.files.atomic import adding, output_folder, replacing, staged


def names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def fail(manager, work, error):
    """Do work inside of a manager, then raise; the error has to come through."""

    def run():
        with manager as given:
            work(given)
            raise error

    with pytest.raises(type(error)):
        run()


def enter(folder):
    with output_folder(folder):
        pass


def test_a_file_appears_whole_or_stays_as_it_was(tmp_path):
    target = tmp_path / "a"
    target.write_text("old")
    fail(replacing(target), lambda part: part.write_text("half"), KeyboardInterrupt())
    assert target.read_text() == "old"
    with replacing(target) as part:
        part.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(tmp_path) == {"a"}


def test_a_set_appears_whole_or_not_at_all(tmp_path):
    (tmp_path / "a").write_text("old")
    fail(staged(tmp_path), lambda stage: (stage / "a").write_text("new"), OSError("disk full"))
    assert (tmp_path / "a").read_text() == "old"
    with staged(tmp_path) as stage:
        (stage / "a").write_text("new")
        (stage / "b").write_text("new")
        assert (tmp_path / "a").read_text() == "old"
    assert (tmp_path / "a").read_text() == "new"
    assert names(tmp_path) == {"a", "b"}


def test_a_set_does_not_stop_at_a_folder_in_its_way(tmp_path):
    (tmp_path / "b").mkdir()

    def write_set():
        with staged(tmp_path) as stage:
            (stage / "a").write_text("new")
            (stage / "b").write_text("new")

    with pytest.raises(IsADirectoryError, match="b is a folder"):
        write_set()
    assert names(tmp_path) == {"b"}


def test_a_folder_is_made_and_goes_again_if_the_work_fails(tmp_path):
    folder = tmp_path / "a" / "b"
    fail(output_folder(folder), lambda _: names(folder), KeyboardInterrupt())
    assert names(tmp_path) == set()
    enter(folder)  # nor is there one if nothing was written
    assert names(tmp_path) == set()
    result = tmp_path / "a" / "result"
    fail(output_folder(folder), lambda _: result.touch(), ValueError("later"))
    assert names(tmp_path) == {"a", "a/result"}
    with output_folder(tmp_path / "a"):
        assert names(tmp_path) == {"a", "a/result"}


def test_what_is_no_folder_or_can_not_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotADirectoryError, match="file is a file"):
            enter(path)

    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.touch", refuse)
    with pytest.raises(PermissionError, match=r"nothing can be written to .*new: Permission"):
        enter(tmp_path / "new")
    assert names(tmp_path) == {"file"}


@pytest.mark.parametrize("links", [True, False])
def test_of_files_that_are_added_the_first_stays_and_nothing_is_left_beside_it(
    links, tmp_path, monkeypatch
):
    def refuse(*_paths):
        raise PermissionError("hard links are unknown here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    for text in ("first", "second"):
        with adding(tmp_path / "a") as part:
            part.write_text(text)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["first"]

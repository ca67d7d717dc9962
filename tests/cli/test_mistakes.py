"""A mistake gets one line at once, which says what was found and what to do."""

import pytest

from smoothsr import adapters
from smoothsr.cli import attack, certify, main


@pytest.fixture
def refused(capsys, monkeypatch):
    """Run a command that is refused before a network is loaded; return what it says."""

    def no_network(*_args, **_kwargs):
        raise AssertionError("the mistake was not seen before the network was loaded")

    monkeypatch.setattr(adapters, "load", no_network)

    def run(*arguments):
        try:
            status = main([*map(str, arguments)])
        except SystemExit as end:
            status = end.code
        assert status == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    return run


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--sgima", ".03"], "smoothsr upscale: --sgima is nothing that this command knows, did"),
        (["--sgima=.03"], "did you mean --sigma?"),
        (["--axt", "png"], "did you mean --ext?"),
        (["--n-cert", "9"], "--n-cert is nothing that this command knows (see"),
        (["--denoiser-sigma", "1,2"], "must be a number such as 0.03 or 8/255, got '1,2'"),
        (["--sigma", "abc"], "must be a number such as 0.03 or 8/255, got 'abc'"),
        (["--sigma", "8"], "write 8/255, not 8"),
        (["--sigma", "-1"], "sigma must be"),
        (["-n", "0"], "n must be"),
        (["--agg", "foo"], "agg must be"),
        (["--tile", "8", "--halo-noise", "-2"], "halo_noise must be"),
        (["--batch-size", "0"], "batch_size must be"),
        (
            ["--sigma", ".03", "more.png"],
            "more.png is one input too many, or apart from the others",
        ),
    ],
)
def test_options_of_upscale_are_refused_once(options, says, photo, tmp_path, refused):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(photo.read_bytes())
    assert says in refused("upscale", tmp_path, "-o", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--tile", "auto"], "must be a number here, such as 4"),
        (["--alpha", "2"], "--alpha must be between 0 and 1, got 2"),
        (["--beta", "0"], "--beta must be between 0 and 1, got 0"),
        (["--tolerance", "8/255"], "write 8 for 8/255, got 0.0313725"),
        (["--tolerance", "-1"], "must be 0, or from 1 to 255"),
        (["--tolerance", "256"], "must be 0, or from 1 to 255"),
        (["--radius", "8", "300"], "--radius 300 is an l2 norm that no change of this image has"),
    ],
)
def test_numbers_of_certify_in_another_unit_are_refused(options, says, photo, tmp_path, refused):
    assert says in refused("certify", photo, "-o", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["certify", "attack"])
def test_what_is_no_file_is_named(command, tmp_path, refused):
    assert f"there is no file or folder {tmp_path / 'no.png'}" in refused(
        command, tmp_path / "no.png"
    )
    assert f"{tmp_path} is a folder: name a file" in refused(command, tmp_path)


def test_models_are_listed_as_they_are_typed(capsys):
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert "--arch 'torchsr:NAME'" in printed
    assert "arch=" not in printed


@pytest.mark.parametrize(
    ("over", "option", "advice"),
    [
        ("sigma", ["--n-cert", "100"], "add --over certified"),
        ("n", ["--predictor", "ideal"], "add --over certified"),
        ("certified", ["-a", "none,noise:0.03,pgd:4/255"], "leave it out"),
        ("certified", ["--metrics", "psnr"], "leave it out"),
        ("certified", ["--lpips-weights", "lpips.pth"], "leave it out"),
        ("certified", ["--seed", "0"], "leave it out"),
    ],
)
def test_options_without_a_part_in_a_sweep_are_refused(over, option, advice, photo, refused):
    name = {"-a": "--attack"}.get(option[0], option[0])
    told = f"{name} has no part in --over {over}: {advice}"
    assert told in refused("sweep", "--hr", photo, "--over", over, *option)


@pytest.mark.parametrize("option", ["--halo", "--halo-noise"])
@pytest.mark.parametrize("command", ["upscale", "certify", "attack", "evaluate"])
def test_what_is_beyond_a_tile_needs_tiles(command, option, photo, refused):
    command = ["evaluate", "--hr", photo] if command == "evaluate" else [command, photo]
    told = refused(*command, option, "2", "--tile", "0")
    assert f"{option} is of what is read beyond a tile: add --tile 8" in told
    if command[0] != "certify":  # which has tiles
        assert told == refused(*command, option, "2")


def test_a_sweep_without_tiles_takes_nothing_beyond_them(photo, refused):
    for options in (["--halo", "8"], ["--halo-noise", "2"], ["--over", "certified", "--tile", "0"]):
        more = ["--halo", "1,2"] if "--over" in options else []
        told = refused("sweep", "--hr", photo, *options, *more)
        assert "--halo and --halo-noise are of what is beyond a tile: add --tile 8" in told


def test_draws_of_a_certificate_are_at_least_two(photo, refused):
    assert "--n-cert must be at least 2, got 1" in refused("certify", photo, "--n-cert", "1")


@pytest.mark.parametrize("command", [["evaluate"], ["sweep"], ["sweep", "--over", "certified"]])
def test_tables_are_not_written_over_files_of_something_else(command, photo, tmp_path, capsys):
    (tmp_path / f"{command[0]}.md").write_text("mine")
    scored = ["--metrics", "psnr"] if command[-1] != "certified" else ["--n-cert", 9]
    options = ["--hr", photo, "-o", tmp_path, "--crop", 3, *scored]
    assert main([*command, *map(str, options)]) == 2
    assert f"{command[0]}.md is there, and no {command[0]}.json" in capsys.readouterr().err
    assert (tmp_path / f"{command[0]}.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("command", "ends"), [("certify", certify.ENDS), ("attack", attack.ENDS[:-1])]
)
def test_files_of_something_else_are_not_written_over(command, ends, photo, tmp_path, refused):
    for end in ends:
        other = tmp_path / "out" / f"{photo.stem}{end}"
        other.parent.mkdir(exist_ok=True)
        other.write_text("mine")
        told = refused(command, photo, "-o", other.parent)
        assert f"{other} is there, and no {photo.stem}" in told
        assert [path.read_text() for path in other.parent.iterdir()] == ["mine"]
        other.unlink()

"""Writing image files against readers that are not ours: Pillow for 8 bits, OpenCV and tifffile for
16; failing leaves no trace.
"""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import (
    GRAY_PROFILE,
    RGB_PROFILE,
    chunk,
    picture,
    png,
    png_16,
    samples,
    stored,
    to_bgr,
)
from PIL import Image

from smoothsr.files import images
from smoothsr.files.images import ImageError, Picture

cv2 = pytest.importorskip("cv2", reason="needs opencv")


# Round trips, and others reading what we wrote


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".tif", ".tiff", ".webp", ".bmp"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("profile", [False, True])
def test_8_bit_round_trips(tmp_path: Path, suffix: str, channels: int, profile: bool) -> None:
    icc = (GRAY_PROFILE if channels < 3 else RGB_PROFILE) if profile else None
    array = samples(6, 9, channels, 8)
    path = tmp_path / f"a{suffix}"
    lacking = (suffix == ".bmp" and (channels % 2 == 0 or profile)) or (
        suffix == ".webp" and channels < 3 and profile
    )
    if lacking:
        with pytest.raises(ImageError, match=r"can't hold .*use \.png"):
            images.write(path, picture(array, icc))
        assert list(tmp_path.iterdir()) == []
        return
    images.write(path, picture(array, icc))
    with Image.open(path) as image:
        assert image.info.get("icc_profile") == icc
        expected_mode = ("L", "LA", "RGB", "RGBA")[channels - 1]
        np.testing.assert_array_equal(
            np.asarray(image.convert(expected_mode)).reshape(6, 9, -1), array
        )
    read = images.read(path)
    assert read.icc == icc
    assert read.bits == 8
    if suffix != ".webp":
        np.testing.assert_array_equal(stored(read), array)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("profile", [False, True])
def test_16_bit_round_trips(tmp_path: Path, suffix: str, channels: int, profile: bool) -> None:
    icc = (GRAY_PROFILE if channels < 3 else RGB_PROFILE) if profile else None
    array = samples(6, 9, channels, 16)
    path = tmp_path / f"a{suffix}"
    if suffix == ".tif" and channels == 2:
        with pytest.raises(ImageError, match="16-bit gray with alpha"):
            images.write(path, picture(array, icc))
        return
    images.write(path, picture(array, icc))
    with Image.open(path) as image:
        image.load()
        assert image.info.get("icc_profile") == icc
    theirs = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert theirs.dtype == np.uint16
    np.testing.assert_array_equal(
        theirs, to_bgr(array if channels != 2 else array[..., [0, 0, 0, 1]])
    )
    read = images.read(path)
    assert read.icc == icc
    np.testing.assert_array_equal(stored(read), array)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_tiff_agrees_with_tifffile(tmp_path: Path, channels: int) -> None:
    tifffile = pytest.importorskip("tifffile")
    array = samples(11, 6, channels, 16)
    images.write(tmp_path / "a.tif", picture(array))
    try:
        theirs = tifffile.imread(tmp_path / "a.tif")
    except ValueError as error:  # its decoder of differences is a package of its own
        pytest.skip(str(error))
    np.testing.assert_array_equal(theirs.reshape(array.shape), array)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".jpg", ".jpeg"])
def test_jpeg_is_quality_95_without_subsampling(tmp_path: Path, suffix: str, channels: int) -> None:
    array = samples(16, 16, channels, 8)
    icc = GRAY_PROFILE if channels == 1 else RGB_PROFILE
    images.write(tmp_path / f"a{suffix}", picture(array, icc))
    buffer = io.BytesIO()
    Image.fromarray(array.squeeze()).save(buffer, "JPEG", quality=95, subsampling=0)
    with Image.open(tmp_path / f"a{suffix}") as ours, Image.open(buffer) as theirs:
        assert ours.quantization == theirs.quantization
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
        if channels == 3:
            assert {layer[1:3] for layer in ours.layer} == {(1, 1)}
    assert images.read(tmp_path / f"a{suffix}").icc == icc


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp", ".bmp"])
def test_16_bits_are_never_squeezed_into_8(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(ImageError, match=rf"\{suffix} can't hold 16 bits; use \.png"):
        images.write(tmp_path / f"a{suffix}", picture(samples(4, 4, 3, 16)))
    assert list(tmp_path.iterdir()) == []


def test_alpha_is_never_dropped(tmp_path: Path) -> None:
    for suffix in (".jpg", ".bmp"):
        with pytest.raises(ImageError, match=r"can't hold alpha; use \.png"):
            images.write(tmp_path / f"a{suffix}", picture(samples(4, 4, 4, 8)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_values_are_clamped_and_rounded(tmp_path: Path, dtype: torch.dtype) -> None:
    values = (
        torch.tensor([-1.0, 0.0, 0.25, 0.5, 1.0, 7.0], dtype=dtype)
        .view(1, 1, 1, 6)
        .requires_grad_()
    )
    for bits, expected in (
        (8, [0, 0, 64, 128, 255, 255]),
        (16, [0, 0, 16384, 32768, 65535, 65535]),
    ):
        images.write(tmp_path / "a.png", Picture(values, None, bits, None))
        assert (
            cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED).flatten().tolist() == expected
        )


@pytest.mark.parametrize("bits", [8, 16])
def test_a_profile_of_another_color_space_is_dropped_in_reading_and_refused_in_writing(
    tmp_path: Path, bits: int
) -> None:
    body = chunk(b"iCCP", b"x\0\0" + zlib.compress(RGB_PROFILE))
    gray = samples(4, 4, 1, bits)
    (tmp_path / "a.png").write_bytes(
        png_16(gray, body) if bits == 16 else png(gray[..., 0], 4, 8, 0, body)
    )
    assert images.read(tmp_path / "a.png").icc is None
    with pytest.raises(ValueError, match=r"icc must be a profile for b'GRAY'.*got b'RGB '"):
        images.write(tmp_path / "b.png", picture(gray, RGB_PROFILE))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Picture(torch.zeros(3, 4, 4)), "pixels must be"),
        (Picture(torch.zeros(2, 3, 4, 4)), "pixels must be"),
        (Picture(torch.zeros(1, 4, 4, 4)), "pixels must be"),
        (Picture(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 5)), "alpha None or"),
        (Picture(torch.zeros(1, 3, 0, 4)), "at least 1x1"),
        (Picture(torch.zeros(1, 3, 4, 4), None, 10), "bits must be 8 or 16"),
        (Picture(torch.full((1, 3, 4, 4), float("nan"))), "finite"),
    ],
)
def test_pictures_that_make_no_sense(tmp_path: Path, bad: Picture, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        images.write(tmp_path / "a.png", bad)
    assert list(tmp_path.iterdir()) == []


def test_what_a_format_or_path_cannot_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = picture(samples(4, 4, 3, 8))
    for name in ("a.gif", "a"):
        with pytest.raises(ImageError, match=r"no format for the suffix.*\.png"):
            images.write(tmp_path / name, small)
    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", _refusing)
        with pytest.raises(ImageError, match=r"4x4 pixels can't be written: no.*use \.png"):
            images.write(tmp_path / "a.webp", small)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        images.write(tmp_path / "missing" / "a.png", small)
    assert list(tmp_path.iterdir()) == []


def _refusing(*_arguments: object, **_options: object) -> None:
    raise OSError("no")


# Failures


@pytest.mark.parametrize(("suffix", "longest"), [(".webp", 16383), (".jpg", 65500)])
def test_what_is_too_long_for_a_format_is_told_before(tmp_path: Path, suffix: str, longest: int):
    """And as long as may be is written."""
    path = tmp_path / f"a{suffix}"
    pixels = torch.zeros(1, 1, 1, longest)
    images.write(path, Picture(pixels))
    images.require_format(path, Picture(torch.zeros(1, 1, 1, longest // 4)), 4)
    for too_long, scale in ((torch.zeros(1, 1, 1, longest + 1), 1), (pixels, 2)):
        with pytest.raises(ImageError, match=f"has at most {longest} pixels a side"):
            images.require_format(path, Picture(too_long), scale)
    images.require_format(path.with_suffix(".png"), Picture(pixels), 2)


@pytest.mark.parametrize("existing", [False, True])
def test_a_failed_write_changes_nothing(tmp_path: Path, existing: bool) -> None:
    path = tmp_path / "a.png"
    if existing:
        path.write_bytes(b"precious")
    resource = pytest.importorskip("resource", reason="needs POSIX")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (4096, limits[1])
    )  # a disk that is full after 4096 bytes
    try:
        with pytest.raises(OSError, match="too large"):
            images.write(path, picture(samples(64, 64, 3, 8)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == (["a.png"] if existing else [])
    if existing:
        assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("failure", [OSError("no"), KeyboardInterrupt()])
def test_a_failed_rename_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    (tmp_path / "a.png").write_bytes(b"precious")

    def fail(source: Path, target: Path) -> None:
        assert source.parent == target.parent  # a rename is atomic within a file system only
        assert images.read(source).bits == 8  # and the file is whole by then
        raise failure

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(type(failure)):
        images.write(tmp_path / "a.png", picture(samples(8, 8, 3, 8)))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"precious"


def test_a_file_written_has_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    images.write(tmp_path / "a.png", picture(samples(4, 4, 3, 8)))
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "other").stat().st_mode

"""Files against readers and writers that are not ours: Pillow for 8 bits, OpenCV, libpng's byte layout and tifffile for 16."""

import io
import os
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, TiffImagePlugin

from smoothsr import images
from smoothsr.images import ImageError, Picture

cv2 = pytest.importorskip("cv2", reason="needs opencv")
RGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GRAY_PROFILE = RGB_PROFILE[:16] + b"GRAY" + RGB_PROFILE[20:]  # only the header's colour space matters here
CMYK_PROFILE = RGB_PROFILE[:16] + b"CMYK" + RGB_PROFILE[20:]


def samples(height: int, width: int, channels: int, bits: int, seed: int = 0) -> np.ndarray:
    """Random (h,w,c) samples; alpha (the last of an even count) is never 0, so that no colour is replaced."""
    array = np.random.default_rng(seed).integers(0, 2**bits, (height, width, channels), dtype=f"uint{bits}")
    if channels % 2 == 0:
        array[..., -1] = np.maximum(array[..., -1], 1)
    return array


def picture(array: np.ndarray, icc: bytes | None = None) -> Picture:
    """Make a Picture of (h,w,c) samples in float64 arithmetic, apart from the module's own."""
    top = np.iinfo(array.dtype).max
    values = torch.from_numpy(array.astype(np.float64) / top).permute(2, 0, 1)[None].float()
    split = array.shape[2] - (array.shape[2] % 2 == 0)
    return Picture(values[:, :split], values[:, split:] if split < array.shape[2] else None, 16 if top > 255 else 8, icc)


def stored(read: Picture) -> np.ndarray:
    """Give a Picture's samples as (h,w,c) integers."""
    values = read.pixels if read.alpha is None else torch.cat([read.pixels, read.alpha], 1)
    scaled = values[0].permute(1, 2, 0).double().numpy() * (2**read.bits - 1)
    assert np.abs(scaled - scaled.round()).max() < 0.01
    return scaled.round().astype(f"uint{read.bits}")


def chunk(tag: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))


def png(rows: np.ndarray, width: int, depth: int, kind: int, *extra: bytes) -> bytes:
    """Assemble a PNG of raw row bytes (h, bytes)."""
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(extra) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def png_16(array: np.ndarray, *extra: bytes) -> bytes:
    kind = (0, 4, 2, 6)[array.shape[2] - 1]
    return png(array.astype(">u2").reshape(len(array), -1).view(np.uint8), array.shape[1], 16, kind, *extra)


def tiff(array: np.ndarray, tags: dict[int, object]) -> bytes:
    """Assemble an uncompressed little-endian TIFF of (h,w,c) samples; tags override."""
    height, width, channels = array.shape
    body = array.tobytes()
    base = {256: width, 257: height, 258: (array.itemsize * 8,) * channels, 259: 1, 262: 1 if channels < 3 else 2, 273: 0}
    base |= {277: channels, 278: height, 279: len(body)} | ({338: 2} if channels % 2 == 0 else {}) | tags
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    directory.update(base)
    stream = io.BytesIO()
    directory.save(stream)
    return stream.getvalue() + body


def to_bgr(array: np.ndarray) -> np.ndarray:
    return array[..., {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[array.shape[2]]].squeeze()


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


# Reading what others wrote


MODES = {"png": ["1", "L", "LA", "RGB", "RGBA"], "tif": ["1", "L", "LA", "RGB", "RGBA"], "bmp": ["1", "L", "RGB"]}


@pytest.mark.parametrize(("suffix", "mode"), [(s, m) for s in MODES for m in MODES[s]] + [("webp", "RGB"), ("webp", "RGBA")])
def test_reads_8_bit_files_of_pillow(tmp_path: Path, suffix: str, mode: str) -> None:
    array = samples(7, 5, len(mode), 8)
    image = Image.fromarray(array.squeeze()).convert(mode)
    image.save(tmp_path / f"a.{suffix}", **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    expected = np.asarray(image.convert("L") if mode == "1" else image).reshape(7, 5, -1)
    read = images.read(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(stored(read), expected)
    assert read.bits == 8
    assert read.pixels.dtype == torch.float32
    assert read.icc is None


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_reads_16_bit_files_of_opencv(tmp_path: Path, suffix: str, channels: int) -> None:
    array = samples(7, 5, channels, 16)
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), to_bgr(array))
    read = images.read(tmp_path / f"a.{suffix}")
    assert read.bits == 16
    np.testing.assert_array_equal(stored(read), array)


def test_reads_16_bit_gray_with_alpha(tmp_path: Path) -> None:
    array = samples(7, 5, 2, 16)
    (tmp_path / "a.png").write_bytes(png_16(array))
    read = images.read(tmp_path / "a.png")
    np.testing.assert_array_equal(stored(read), array)
    assert read.pixels.shape == (1, 1, 7, 5)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_dark_16_bit_image_keeps_16_bits(tmp_path: Path, suffix: str) -> None:
    array = samples(9, 8, 3, 16) % 200  # every value would fit into 8 bits
    cv2.imwrite(str(tmp_path / f"dark.{suffix}"), to_bgr(array))
    read = images.read(tmp_path / f"dark.{suffix}")
    assert read.bits == 16
    assert read.pixels.max() <= 200 / 65535
    images.write(tmp_path / f"again.{suffix}", read)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / f"again.{suffix}"), cv2.IMREAD_UNCHANGED), to_bgr(array))


@pytest.mark.parametrize("transparent", [False, True])
def test_palettes_become_rgb(tmp_path: Path, transparent: bool) -> None:
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) % 5).convert("P")
    palette = samples(5, 3, 1, 8, seed=3).reshape(5, 3)
    image.putpalette(palette.tobytes())
    opacity = np.array([255, 40, 1, 200, 90], np.uint8)
    image.save(tmp_path / "a.png", **({"transparency": opacity.tobytes()} if transparent else {}))
    indices = np.asarray(image)
    expected = np.concatenate([palette[indices], opacity[indices][..., None]], 2) if transparent else palette[indices]
    np.testing.assert_array_equal(stored(images.read(tmp_path / "a.png")), expected)


def test_a_gif_with_a_transparent_color_has_alpha(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 1]], np.uint8))
    image = image.convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.gif", transparency=0)  # index 0 is a transparency too
    read = stored(images.read(tmp_path / "a.gif"))
    assert read[..., 3].tolist() == [[0, 255], [255, 255]]
    assert read[0, 1].tolist() == [40, 50, 60, 255]


@pytest.mark.parametrize(("depth", "byte", "key"), [(1, 0b01101001, 1), (2, 0b00011011, 2), (4, 0x3A, 10), (8, 200, 200)])
def test_the_transparent_gray_of_a_png_becomes_alpha(tmp_path: Path, depth: int, byte: int, key: int) -> None:
    width = 8 // depth
    data = png(np.array([[byte]], np.uint8), width, depth, 0, chunk(b"tRNS", struct.pack(">H", key)))
    (tmp_path / "a.png").write_bytes(data)
    levels = [byte >> (8 - depth * (i + 1)) & (2**depth - 1) for i in range(width)]
    read = images.read(tmp_path / "a.png")
    assert read.alpha is not None
    assert read.alpha.flatten().tolist() == [float(level != key) for level in levels]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_transparent_color_of_a_png_becomes_alpha(tmp_path: Path, bits: int, channels: int) -> None:
    array = samples(4, 5, channels, bits)
    array[2, 1] = array[0, 0]
    rows = array.astype(array.dtype.newbyteorder(">")).reshape(4, -1).view(np.uint8)
    key = chunk(b"tRNS", array[0, 0].astype(">u2").tobytes())
    (tmp_path / "a.png").write_bytes(png(rows, 5, bits, 0 if channels == 1 else 2, key))
    expected = (array != array[0, 0]).any(2)
    assert not expected[2, 1]
    read = stored(images.read(tmp_path / "a.png"))
    np.testing.assert_array_equal(read[..., -1] > 0, expected)
    np.testing.assert_array_equal(read[expected][:, :-1], array[expected])


def test_cmyk_becomes_rgb_and_loses_its_profile(tmp_path: Path) -> None:
    image = Image.fromarray(samples(8, 8, 3, 8)).convert("CMYK")
    image.save(tmp_path / "a.jpg", icc_profile=CMYK_PROFILE, quality=100)
    read = images.read(tmp_path / "a.jpg")
    np.testing.assert_array_equal(stored(read), np.asarray(Image.open(tmp_path / "a.jpg").convert("RGB")))
    assert read.icc is None


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("suffix", "bits"), [("png", 8), ("png", 16), ("tif", 8), ("tif", 16), ("jpg", 8), ("webp", 8)])
def test_orientation_is_applied(tmp_path: Path, suffix: str, bits: int, orientation: int) -> None:
    array = samples(5, 7, 3, bits)
    if suffix == "jpg":
        array = np.kron(array, np.ones((8, 8, 1), array.dtype))  # blocks, so that JPEG changes little
    # where row 0 and column 0 lie, by the EXIF standard: 1 top left, 2 top right, 3 bottom right, 4 bottom left, 5 left top ...
    turned = {1: [], 2: ["FLIP_LEFT_RIGHT"], 3: ["ROTATE_180"], 4: ["FLIP_TOP_BOTTOM"], 5: ["TRANSPOSE"], 6: ["ROTATE_270"]}
    turned |= {7: ["TRANSVERSE"], 8: ["ROTATE_90"]}
    planes = [Image.fromarray(array[..., i].astype(np.int32)) for i in range(3)]
    for how in turned[orientation]:
        planes = [plane.transpose(Image.Transpose[how]) for plane in planes]
    expected = np.stack([np.asarray(plane) for plane in planes], 2)
    path = tmp_path / f"a.{suffix}"
    if suffix == "tif":
        path.write_bytes(tiff(array, {274: orientation}))
    elif bits == 16:
        path.write_bytes(png_16(array, chunk(b"eXIf", exif(orientation).removeprefix(b"Exif\0\0"))))
    else:
        options = {"lossless": True} if suffix == "webp" else {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
        Image.fromarray(array).save(path, exif=exif(orientation), **options)
    read = images.read(path)
    assert read.bits == bits
    np.testing.assert_allclose(stored(read).astype(int), expected, atol=6 if suffix == "jpg" else 0)


def test_hidden_pixels_take_the_color_of_the_nearest_visible_one(tmp_path: Path) -> None:
    array = np.zeros((1, 6, 4), np.uint8)
    array[0, 0] = (200, 10, 20, 255)
    array[0, 5] = (30, 40, 250, 7)
    Image.fromarray(array).save(tmp_path / "a.png")
    read = stored(images.read(tmp_path / "a.png"))
    assert read[0, :, :3].tolist() == [[200, 10, 20]] * 3 + [[30, 40, 250]] * 3
    assert read[0, :, 3].tolist() == [255, 0, 0, 0, 0, 7]
    Image.fromarray(array * np.uint8([1, 1, 1, 0])).save(tmp_path / "b.png")  # nothing visible: left alone
    np.testing.assert_array_equal(stored(images.read(tmp_path / "b.png")), array * np.uint8([1, 1, 1, 0]))


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_the_first_of_several_frames_is_read_with_a_warning(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("#ff0000", "#00ff00")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    with pytest.warns(UserWarning, match="first is read"):
        read = images.read(tmp_path / f"a.{suffix}")
    assert stored(read)[0, 0].tolist()[:3] == [255, 0, 0]


def test_a_phones_photo_with_previews_is_read_without_a_warning(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ("#ff0000", "#00ff00")]
    frames[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert images.read(tmp_path / "a.jpg").pixels[0, 0].min() > 0.9


# Round trips, and others reading what we wrote


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".tif", ".tiff", ".webp", ".bmp"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("profile", [False, True])
def test_8_bit_round_trips(tmp_path: Path, suffix: str, channels: int, profile: bool) -> None:
    icc = (GRAY_PROFILE if channels < 3 else RGB_PROFILE) if profile else None
    array = samples(6, 9, channels, 8)
    path = tmp_path / f"a{suffix}"
    lacking = (suffix == ".bmp" and (channels % 2 == 0 or profile)) or (suffix == ".webp" and channels < 3 and profile)
    if lacking:
        with pytest.raises(ImageError, match=r"can't hold .*use \.png"):
            images.write(path, picture(array, icc))
        assert list(tmp_path.iterdir()) == []
        return
    images.write(path, picture(array, icc))
    with Image.open(path) as image:
        assert image.info.get("icc_profile") == icc
        expected_mode = ("L", "LA", "RGB", "RGBA")[channels - 1]
        np.testing.assert_array_equal(np.asarray(image.convert(expected_mode)).reshape(6, 9, -1), array)
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
    np.testing.assert_array_equal(theirs, to_bgr(array if channels != 2 else array[..., [0, 0, 0, 1]]))
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
    values = torch.tensor([-1.0, 0.0, 0.25, 0.5, 1.0, 7.0], dtype=dtype).view(1, 1, 1, 6).requires_grad_()
    for bits, expected in ((8, [0, 0, 64, 128, 255, 255]), (16, [0, 0, 16384, 32768, 65535, 65535])):
        images.write(tmp_path / "a.png", Picture(values, None, bits, None))
        assert cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED).flatten().tolist() == expected


@pytest.mark.parametrize("bits", [8, 16])
def test_a_profile_of_another_color_space_is_dropped_in_reading_and_refused_in_writing(tmp_path: Path, bits: int) -> None:
    body = chunk(b"iCCP", b"x\0\0" + zlib.compress(RGB_PROFILE))
    gray = samples(4, 4, 1, bits)
    (tmp_path / "a.png").write_bytes(png_16(gray, body) if bits == 16 else png(gray[..., 0], 4, 8, 0, body))
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


def test_what_a_format_or_path_cannot_take(tmp_path: Path) -> None:
    small = picture(samples(4, 4, 3, 8))
    for name in ("a.gif", "a"):
        with pytest.raises(ImageError, match=r"no format for the suffix.*\.png"):
            images.write(tmp_path / name, small)
    with pytest.raises(ImageError, match=r"17000x1 pixels can't be written.*use \.png"):
        images.write(tmp_path / "a.webp", Picture(torch.zeros(1, 3, 1, 17000)))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        images.write(tmp_path / "missing" / "a.png", small)
    assert list(tmp_path.iterdir()) == []


# Failures


@pytest.mark.parametrize("existing", [False, True])
def test_a_failed_write_changes_nothing(tmp_path: Path, existing: bool) -> None:
    path = tmp_path / "a.png"
    if existing:
        path.write_bytes(b"precious")
    resource = pytest.importorskip("resource", reason="needs POSIX")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # a disk that is full after 4096 bytes
    try:
        with pytest.raises(OSError, match="too large"):
            images.write(path, picture(samples(64, 64, 3, 8)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == (["a.png"] if existing else [])
    if existing:
        assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("failure", [OSError("no"), KeyboardInterrupt()])
def test_a_failed_rename_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException) -> None:
    (tmp_path / "a.png").write_bytes(b"precious")

    def fail(source: Path, target: Path) -> None:
        assert source.parent == target.parent  # a rename is atomic within a file system only
        assert images.read(source).bits == 8  # and the file is whole by then
        raise failure

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(type(failure)):
        images.write(tmp_path / "a.png", picture(samples(8, 8, 3, 8)))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"precious"


def test_a_file_written_has_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    images.write(tmp_path / "a.png", picture(samples(4, 4, 3, 8)))
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_without_opencv_16_bits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    array = samples(4, 4, 3, 16)
    images.write(tmp_path / f"a.{suffix}", picture(array))
    images.write(tmp_path / f"b.{suffix}", picture((array >> 8).astype(np.uint8)))
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r'16-bit files need OpenCV .*pip install "smoothsr\[io\]"') as caught:
        images.read(tmp_path / f"a.{suffix}")
    assert "\n" not in str(caught.value)
    assert images.read(tmp_path / f"b.{suffix}").bits == 8
    images.write(tmp_path / f"c.{suffix}", picture(array))  # writing does without


def test_an_8_bit_answer_of_opencv_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images.write(tmp_path / "a.png", picture(samples(4, 4, 3, 16)))
    for wrong in (None, np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint16)):
        monkeypatch.setattr(cv2, "imdecode", lambda *_, answer=wrong: answer)
        with pytest.raises(ImageError, match="OpenCV can't decode its 16 bits"):
            images.read(tmp_path / "a.png")


def valid(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(samples(64, 64, 3, 8)).save(buffer, kind)
    return buffer.getvalue()


def floats(mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (4, 4)).save(buffer, "TIFF")
    return buffer.getvalue()


BAD = {
    "empty.png": lambda: b"",
    "text.png": lambda: b"just a note",
    "page.png": lambda: b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "lfs.jpg": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    "signature.png": lambda: b"\x89PNG\r\n\x1a\n",
    "header.png": lambda: valid("PNG")[:30],
    "half.png": lambda: valid("PNG")[:6000],
    "half16.png": lambda: png_16(samples(64, 64, 3, 16))[:12000],
    "half.jpg": lambda: valid("JPEG")[:2000],
    "half.webp": lambda: valid("WEBP")[:1000],
    "half.tif": lambda: valid("TIFF")[:6000],
    "half16.tif": lambda: tiff(samples(64, 64, 3, 16), {})[:9000],
    "half.bmp": lambda: valid("BMP")[:6000],
    "flipped.png": lambda: (d := bytearray(valid("PNG")), d.__setitem__(6000, d[6000] ^ 255), bytes(d))[-1],
    "no_data.png": lambda: png_16(samples(4, 4, 3, 16))[:33] + chunk(b"IEND", b""),
    "depth3.png": lambda: png(np.zeros((4, 12), np.uint8), 4, 3, 2),
    "float.tif": lambda: floats("F"),
    "int32.tif": lambda: floats("I"),
    "float_rgb.tif": lambda: tiff(np.zeros((4, 4, 3), np.float32), {339: (3, 3, 3)}),
    "half_float.tif": lambda: tiff(np.zeros((4, 4, 1), np.float16), {339: 3}),
    "signed.tif": lambda: tiff(np.zeros((4, 4, 1), np.int16), {339: 2}),
    "signed8.tif": lambda: tiff(np.zeros((4, 4, 1), np.int8), {339: 2}),
    "lab.tif": lambda: tiff(samples(4, 4, 3, 8), {262: 8}),
    "cmyk16.tif": lambda: tiff(samples(4, 4, 4, 16), {262: 5, 338: 0}),
    "inverted16.tif": lambda: tiff(samples(4, 4, 1, 16), {262: 0}),
    "planes16.tif": lambda: tiff(samples(4, 4, 3, 16), {284: 2, 273: (0, 32, 64), 279: (32, 32, 32)}),
    "premultiplied16.tif": lambda: tiff(samples(4, 4, 4, 16), {338: 1}),
    "gray_alpha16.tif": lambda: tiff(samples(4, 4, 2, 16), {}),
    "drawing.eps": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "bomb.png": lambda: png(np.zeros((1, 1), np.uint8), 1, 8, 0).replace(
        chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
        chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_clear_line(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_bytes(BAD[name]())
    with warnings.catch_warnings(record=True) as leaked, pytest.raises(ImageError) as caught:
        images.read(tmp_path / name)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / name}: can't be read: ")
    assert len(line.splitlines()) == 1
    assert len(line) > len(f"{tmp_path / name}: can't be read: ") + 10
    assert "object at" not in line
    assert not leaked
    assert capfd.readouterr() == ("", "")


def test_a_large_image_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # Pillow warns beyond it, and fails beyond twice as much
    images.write(tmp_path / "a.png", picture(samples(8, 8, 3, 8)))
    assert images.read(tmp_path / "a.png").pixels.shape == (1, 3, 8, 8)
    images.write(tmp_path / "b.png", picture(samples(8, 16, 3, 16)))
    with pytest.raises(ImageError, match="128 pixels"):
        images.read(tmp_path / "b.png")


def test_missing_files_and_folders_are_os_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        images.read(tmp_path / "missing.png")
    with pytest.raises(IsADirectoryError):
        images.read(tmp_path)


def test_find(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub.png").mkdir(parents=True)
    for name in ("b.PNG", "a.jpg", "c.TiFf", "note.txt", "._b.png", "sub.png/inner.png"):
        (folder / name).touch()
    (tmp_path / "odd.name").touch()
    (tmp_path / "empty").mkdir()
    inside = [folder / "a.jpg", folder / "b.PNG", folder / "c.TiFf"]
    assert images.find([folder]) == inside
    given = [str(tmp_path / "odd.name"), folder, folder / "a.jpg", tmp_path / "empty"]
    assert images.find(given) == [tmp_path / "odd.name", *inside]
    assert images.find([tmp_path / "empty"]) == images.find([]) == []
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: .*missing"):
        images.find([folder, tmp_path / "missing"])


def test_reading_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    images.write(tmp_path / "a.png", picture(samples(4, 4, 3, 8)))
    images.read(tmp_path / "a.png")
    assert torch.equal(state, torch.get_rng_state())

"""Reading image files against writers that are not ours: Pillow for 8 bits, OpenCV and libpng's
byte layout for 16.
"""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import (
    CMYK_PROFILE,
    chunk,
    exif,
    picture,
    png,
    png_16,
    samples,
    stored,
    tiff,
    to_bgr,
)
from PIL import Image

from smoothsr.files import images

cv2 = pytest.importorskip("cv2", reason="needs opencv")
MODES = {
    "png": ["1", "L", "LA", "RGB", "RGBA"],
    "tif": ["1", "L", "LA", "RGB", "RGBA"],
    "bmp": ["1", "L", "RGB"],
}


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [(s, m) for s in MODES for m in MODES[s]] + [("webp", "RGB"), ("webp", "RGBA")],
)
def test_reads_8_bit_files_of_pillow(tmp_path: Path, suffix: str, mode: str) -> None:
    array = samples(7, 5, len(mode), 8)
    image = Image.fromarray(array.squeeze()).convert(mode)
    image.save(
        tmp_path / f"a.{suffix}", **({"lossless": True, "exact": True} if suffix == "webp" else {})
    )
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
    np.testing.assert_array_equal(
        cv2.imread(str(tmp_path / f"again.{suffix}"), cv2.IMREAD_UNCHANGED), to_bgr(array)
    )


@pytest.mark.parametrize("transparent", [False, True])
def test_palettes_become_rgb(tmp_path: Path, transparent: bool) -> None:
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) % 5).convert("P")
    palette = samples(5, 3, 1, 8, seed=3).reshape(5, 3)
    image.putpalette(palette.tobytes())
    opacity = np.array([255, 40, 1, 200, 90], np.uint8)
    image.save(tmp_path / "a.png", **({"transparency": opacity.tobytes()} if transparent else {}))
    indices = np.asarray(image)
    expected = (
        np.concatenate([palette[indices], opacity[indices][..., None]], 2)
        if transparent
        else palette[indices]
    )
    np.testing.assert_array_equal(stored(images.read(tmp_path / "a.png")), expected)


def test_a_gif_with_a_transparent_color_has_alpha(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 1]], np.uint8))
    image = image.convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.gif", transparency=0)  # index 0 is a transparency too
    read = stored(images.read(tmp_path / "a.gif"))
    assert read[..., 3].tolist() == [[0, 255], [255, 255]]
    assert read[0, 1].tolist() == [40, 50, 60, 255]


@pytest.mark.parametrize(
    ("depth", "byte", "key"), [(1, 0b01101001, 1), (2, 0b00011011, 2), (4, 0x3A, 10), (8, 200, 200)]
)
def test_the_transparent_gray_of_a_png_becomes_alpha(
    tmp_path: Path, depth: int, byte: int, key: int
) -> None:
    width = 8 // depth
    data = png(
        np.array([[byte]], np.uint8), width, depth, 0, chunk(b"tRNS", struct.pack(">H", key))
    )
    (tmp_path / "a.png").write_bytes(data)
    levels = [byte >> (8 - depth * (i + 1)) & (2**depth - 1) for i in range(width)]
    read = images.read(tmp_path / "a.png")
    assert read.alpha is not None
    assert read.alpha.flatten().tolist() == [float(level != key) for level in levels]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_transparent_color_of_a_png_becomes_alpha(
    tmp_path: Path, bits: int, channels: int
) -> None:
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
    np.testing.assert_array_equal(
        stored(read), np.asarray(Image.open(tmp_path / "a.jpg").convert("RGB"))
    )
    assert read.icc is None


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("suffix", "bits"), [("png", 8), ("png", 16), ("tif", 8), ("tif", 16), ("jpg", 8), ("webp", 8)]
)
def test_orientation_is_applied(tmp_path: Path, suffix: str, bits: int, orientation: int) -> None:
    array = samples(5, 7, 3, bits)
    if suffix == "jpg":
        array = np.kron(
            array, np.ones((8, 8, 1), array.dtype)
        )  # blocks, so that JPEG changes little
    # where row 0 and column 0 lie, by the EXIF standard: 1 top left, 2 top right, 3 bottom right, 4
    # bottom left, 5 left top ...
    turned = {
        1: [],
        2: ["FLIP_LEFT_RIGHT"],
        3: ["ROTATE_180"],
        4: ["FLIP_TOP_BOTTOM"],
        5: ["TRANSPOSE"],
        6: ["ROTATE_270"],
    }
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
        options = (
            {"lossless": True}
            if suffix == "webp"
            else {"quality": 100, "subsampling": 0}
            if suffix == "jpg"
            else {}
        )
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
    Image.fromarray(array * np.uint8([1, 1, 1, 0])).save(
        tmp_path / "b.png"
    )  # nothing visible: left alone
    np.testing.assert_array_equal(
        stored(images.read(tmp_path / "b.png")), array * np.uint8([1, 1, 1, 0])
    )


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

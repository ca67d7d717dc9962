"""Image files that can't be read: each is refused in one clear line."""

import io
import struct
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from image_files import chunk, picture, png, png_16, samples, tiff
from PIL import Image

from smoothsr.files import images
from smoothsr.files.images import ImageError

cv2 = pytest.importorskip("cv2", reason="needs opencv")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_without_opencv_16_bits_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    array = samples(4, 4, 3, 16)
    images.write(tmp_path / f"a.{suffix}", picture(array))
    images.write(tmp_path / f"b.{suffix}", picture((array >> 8).astype(np.uint8)))
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(
        ImportError, match=r"16-bit files need OpenCV .*pip install opencv-python-headless"
    ) as caught:
        images.read(tmp_path / f"a.{suffix}")
    assert "\n" not in str(caught.value)
    assert images.read(tmp_path / f"b.{suffix}").bits == 8
    images.write(tmp_path / f"c.{suffix}", picture(array))  # writing does without


def test_an_8_bit_answer_of_opencv_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    "flipped.png": lambda: (
        d := bytearray(valid("PNG")),
        d.__setitem__(6000, d[6000] ^ 255),
        bytes(d),
    )[-1],
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
    "planes16.tif": lambda: tiff(
        samples(4, 4, 3, 16), {284: 2, 273: (0, 32, 64), 279: (32, 32, 32)}
    ),
    "premultiplied16.tif": lambda: tiff(samples(4, 4, 4, 16), {338: 1}),
    "gray_alpha16.tif": lambda: tiff(samples(4, 4, 2, 16), {}),
    "drawing.eps": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "bomb.png": lambda: png(np.zeros((1, 1), np.uint8), 1, 8, 0).replace(
        chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
        chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_clear_line(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
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
    monkeypatch.setattr(
        Image, "MAX_IMAGE_PIXELS", 40
    )  # Pillow warns beyond it, and fails beyond twice as much
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

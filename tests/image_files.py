"""Image files and pictures for the tests of reading and writing, assembled by Pillow or byte by
byte, never by the module.
"""

import io
import struct
import zlib

import numpy as np
import torch
from PIL import Image, ImageCms, TiffImagePlugin

from smoothsr.files.images import Picture

__all__ = [
    "CMYK_PROFILE",
    "GRAY_PROFILE",
    "RGB_PROFILE",
    "chunk",
    "exif",
    "picture",
    "png",
    "png_16",
    "samples",
    "stored",
    "tiff",
    "to_bgr",
]
RGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GRAY_PROFILE = (
    RGB_PROFILE[:16] + b"GRAY" + RGB_PROFILE[20:]
)  # only the header's colour space matters here
CMYK_PROFILE = RGB_PROFILE[:16] + b"CMYK" + RGB_PROFILE[20:]


def samples(height: int, width: int, channels: int, bits: int, seed: int = 0) -> np.ndarray:
    """Random (h,w,c) samples; alpha (the last of an even count) is never 0, so that no colour is
    replaced.
    """
    array = np.random.default_rng(seed).integers(
        0, 2**bits, (height, width, channels), dtype=f"uint{bits}"
    )
    if channels % 2 == 0:
        array[..., -1] = np.maximum(array[..., -1], 1)
    return array


def picture(array: np.ndarray, icc: bytes | None = None) -> Picture:
    """Make a Picture of (h,w,c) samples in float64 arithmetic, apart from the module's own."""
    top = np.iinfo(array.dtype).max
    values = torch.from_numpy(array.astype(np.float64) / top).permute(2, 0, 1)[None].float()
    split = array.shape[2] - (array.shape[2] % 2 == 0)
    return Picture(
        values[:, :split],
        values[:, split:] if split < array.shape[2] else None,
        16 if top > 255 else 8,
        icc,
    )


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
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(extra)
        + chunk(b"IDAT", body)
        + chunk(b"IEND", b"")
    )


def png_16(array: np.ndarray, *extra: bytes) -> bytes:
    kind = (0, 4, 2, 6)[array.shape[2] - 1]
    return png(
        array.astype(">u2").reshape(len(array), -1).view(np.uint8), array.shape[1], 16, kind, *extra
    )


def tiff(array: np.ndarray, tags: dict[int, object]) -> bytes:
    """Assemble an uncompressed little-endian TIFF of (h,w,c) samples; tags override."""
    height, width, channels = array.shape
    body = array.tobytes()
    base = {
        256: width,
        257: height,
        258: (array.itemsize * 8,) * channels,
        259: 1,
        262: 1 if channels < 3 else 2,
        273: 0,
    }
    base |= (
        {277: channels, 278: height, 279: len(body)}
        | ({338: 2} if channels % 2 == 0 else {})
        | tags
    )
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

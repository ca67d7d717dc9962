"""Image files to tensors and back, without loss of what the file holds: 16 bits, alpha, gray,
orientation, colour profile.

Pillow reads and writes 8-bit files. It opens 16-bit colour as 8-bit without a word, so the depth is
taken from the file's header and 16-bit files are decoded by OpenCV. What a format can't hold is
refused before anything is written.
"""

import os
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, TiffImagePlugin
from torch import Tensor
from torch.nn import functional as F

from smoothsr.files.atomic import replacing
from smoothsr.files.regular import require_regular
from smoothsr.metrics import to_8bit

__all__ = [
    "EXTENSIONS",
    "ImageError",
    "Picture",
    "find",
    "read",
    "require_format",
    "with_pixels",
    "write",
]

_PNG: tuple[str, dict[str, Any], set[str]] = (
    "PNG",
    {},
    set(),
)  # Pillow's name and options, and what the format can't hold
_JPEG = ("JPEG", {"quality": 95, "subsampling": "4:4:4"}, {"16 bits", "alpha"})
_WEBP = ("WEBP", {"lossless": True, "exact": True}, {"16 bits", "a gray profile"})
_TIFF = ("TIFF", {"compression": "tiff_adobe_deflate"}, {"16-bit gray with alpha"})
_BMP: tuple[str, dict[str, Any], set[str]] = (
    "BMP",
    {},
    {"16 bits", "alpha", "a gray profile", "an RGB profile"},
)
_FORMATS = {
    ".png": _PNG,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": _WEBP,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".bmp": _BMP,
}
_LONGEST = {".webp": 16383, ".jpg": 65500, ".jpeg": 65500}  # sides that libwebp and libjpeg take
EXTENSIONS = tuple(_FORMATS)
BAND = 64  # rows that are rounded at a time
_SPACE = {1: b"GRAY", 3: b"RGB "}  # what bytes 16 to 19 of a profile for so many channels say


class ImageError(ValueError):
    """A file that can't be read or written as asked; one line says what was found and what to
    do.
    """


@dataclass(frozen=True, eq=False)
class Picture:
    """What an image file holds.

    Attributes:
        pixels: (1,C,h,w) float32 in [0, 1], upright; C is 1 for gray files and 3 for colour.
        alpha: Opacity (1,1,h,w) float32 in [0, 1]; None if the file has none.
        bits: 16, or 8 for 8 and fewer bits a sample, by the file's header.
        icc: The embedded colour profile, unchanged.
    """

    pixels: Tensor
    alpha: Tensor | None = None
    bits: int = 8
    icc: bytes | None = None


def read(path: str | os.PathLike[str]) -> Picture:
    """Read a PNG, JPEG, WebP, TIFF, BMP or GIF file, turned upright by its EXIF orientation.

    Palettes and CMYK become RGB; a profile for another colour space than the returned pixels' no
    longer applies and is dropped. Wholly transparent pixels hold leftovers for a colour: they get
    that of the nearest visible pixel, so that upscaling leaves no fringes. Of an animation or
    several pages the first is read, with a warning.

    Raises:
        ImageError: If the file is no image, is damaged, has too many pixels, or holds other samples
            than unsigned 8 or 16 bits.
        ImportError: If the file has 16 bits and OpenCV is missing.
        OSError: If the file can't be opened, or is a pipe or a device.
    """
    require_regular(path)
    data = Path(path).read_bytes()
    try:
        image, samples, bits = _open(data)
    except (ImportError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{path}: can't be read: {error} Cut it up, or raise PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except ImageError as error:
        raise ImageError(f"{path}: can't be read: {error}") from error
    except Exception as error:  # decoders that are fed with broken data raise nearly anything
        what = (
            f"{' '.join(str(error).split(' <')[0].split())} ({len(data)} bytes beginning with "
            f"{data[:12]!r})"
        )
        raise ImageError(
            f"{path}: can't be read: {what}; pass a whole image of 8 or 16 bits (no floats), "
            "such as a PNG"
        ) from error
    # An MPO is a phone's photo and its previews.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        warnings.warn(f"{path}: holds several frames or pages, the first is read", stacklevel=2)
    values = torch.from_numpy(
        np.ascontiguousarray(samples.transpose(2, 0, 1)[None], np.float32)
    ) / (2**bits - 1)
    pixels, alpha = (
        (values, None) if values.shape[1] in (1, 3) else (values[:, :-1], values[:, -1:])
    )
    icc = image.info.get("icc_profile") or b""
    return Picture(pixels, alpha, bits, icc if icc[16:20] == _SPACE[pixels.shape[1]] else None)


def _open(data: bytes) -> tuple[Image.Image, np.ndarray, int]:
    """Open a file's bytes; return what Pillow knows, upright samples (h,w,c), and their bits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what is harmless, or raised anyway
        image = Image.open(BytesIO(data), formats=("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"))
        image.load()  # also finds truncated files, before OpenCV would print about them
        samples, bits = _decode(image, data)
        # Decoders turn TIFF upright themselves.
        turned = 1 if image.format == "TIFF" else image.getexif().get(0x0112, 1)
        return image, _fill_transparent(_upright(samples, turned)), bits


def write(path: str | os.PathLike[str], picture: Picture) -> None:
    """Write a picture in the format of the suffix, clamped to [0, 1] and rounded to picture.bits.

    The file appears whole or not at all, by way of a temporary name in its folder. JPEG is quality
    95, 4:4:4; WebP is lossless.

    Raises:
        ImageError: If the suffix is unknown, or its format can't hold the picture's bits, alpha,
            profile or size.
        ValueError: If the picture's parts don't fit together.
        OSError: If the folder is missing or the file can't be written.
    """
    path = Path(path)
    _require_sound(picture)
    require_format(path, picture)
    data = _encode(path, picture)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {path.parent}")
    with replacing(path) as part:
        part.write_bytes(data)


def require_format(path: str | os.PathLike[str], picture: Picture, scale: int = 1) -> None:
    """Refuse a suffix that is unknown, or whose format can't hold the bits, alpha, profile or sides
    of a picture's enlargement.

    Args:
        path: Of the file.
        picture: What is enlarged.
        scale: How many times.

    Raises:
        ImageError: If so; says what would do.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise ImageError(
            f"{path}: no format for the suffix {suffix!r}; use one of {' '.join(EXTENSIONS)}"
        )
    gray, deep = picture.pixels.shape[1] == 1, picture.bits == 16
    needs = {
        "16 bits": deep,
        "alpha": picture.alpha is not None,
        "16-bit gray with alpha": deep and gray and picture.alpha is not None,
        "a gray profile" if gray else "an RGB profile": picture.icc is not None,
    }
    unable = _FORMATS[suffix][2]
    if lost := [need for need, needed in needs.items() if needed and need in unable]:
        raise ImageError(f"{path}: {suffix} can't hold {' nor '.join(lost)}; use .png")
    longest, side = _LONGEST.get(suffix), scale * max(picture.pixels.shape[2:])
    if longest and side > longest:
        raise ImageError(
            f"{path}: {suffix} has at most {longest} pixels a side, not {side}; use .png"
        )


def with_pixels(picture: Picture, pixels: Tensor, bits: int) -> Picture:
    """Return a picture's enlargement: other pixels (1,C,H,W) and bits, its alpha enlarged beside
    them, its profile carried.
    """
    alpha = picture.alpha
    if alpha is not None:
        alpha = F.interpolate(alpha, pixels.shape[2:], mode="bicubic", align_corners=False)
        alpha = alpha.clamp(0, 1)
    return Picture(pixels, alpha, bits, picture.icc)


def find(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """List files, each once: those given, and the unhidden ones with one of EXTENSIONS right inside
    the folders given, sorted.

    Raises:
        FileNotFoundError: If a path does not exist.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"no such file or folder: {path}")
        files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
        found += [
            p for p in files if p == path or (p.suffix.lower() in EXTENSIONS and p.name[0] != ".")
        ]
    return list(dict.fromkeys(found))


def _decode(image: Image.Image, data: bytes) -> tuple[np.ndarray, int]:
    """Return samples (h,w,c) and their bits by the header; c: 1 gray, 2 gray and alpha, 3 RGB, 4
    RGB and alpha.
    """
    tags: Any = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    depth = data[24] if image.format == "PNG" else max(tags.get(258, (8,)))
    key = image.info.get("transparency")
    mode = {"1": "L", "P": "RGB" if key is None else "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}.get(
        image.mode, image.mode
    )
    if not _supported(depth, tags) or (depth < 16 and mode not in ("L", "LA", "RGB", "RGBA")):
        raise ImageError(
            f"{depth}-bit {image.mode} samples of an unsupported form; convert it to an 8- "
            "or 16-bit PNG"
        )
    if depth < 16:
        samples = np.atleast_3d(np.asarray(image.convert(mode)))
    else:
        # Pillow calls gray with alpha RGBA, OpenCV makes it BGRA.
        gray_alpha = image.format == "PNG" and data[25] == 4
        samples = _decode_16(data, (image.height, image.width), "LA" if gray_alpha else mode)
    if key is not None and image.mode != "P":
        samples = _with_key(samples, key, depth)
    return samples, max(depth, 8)


def _supported(depth: int, tags: Any) -> bool:
    """Tell whether the samples are unsigned integers of a form that decodes truly."""
    plain = depth in (1, 2, 4, 8, 16) and max(tags.get(339, (1,))) == 1
    if depth < 16 or not tags:
        return plain
    # OpenCV misreads inverted gray, CMYK, separate planes and premultiplied alpha.
    together = tags.get(284, 1) == 1 or tags.get(277, 1) == 1
    return plain and tags.get(262) in (1, 2) and together and 1 not in tags.get(338, ())


def _decode_16(data: bytes, sides: tuple[int, int], mode: str) -> np.ndarray:
    """Decode 16-bit samples (h,w,c) by OpenCV, and put its channels in order."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            f"16-bit files need OpenCV ({error}): pip install opencv-python-headless"
        ) from error
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype != np.uint16 or stored.shape[:2] != sides:
        raise ImageError("OpenCV can't decode its 16 bits; convert it to a 16-bit PNG")
    order = {"LA": [0, 3], "RGB": [2, 1, 0], "RGBA": [2, 1, 0, 3]}.get(mode, [0])
    return np.atleast_3d(stored)[..., order]


def _with_key(samples: np.ndarray, key: Any, depth: int) -> np.ndarray:
    """Add the alpha of a file in which one colour means transparent."""
    # Pillow scales gray of 1 to 4 bits, not always the key.
    scale = 255 // (2**depth - 1) if depth < 8 and key < 2**depth else 1
    visible = (samples != np.asarray(key) * scale).any(2, keepdims=True)
    alpha = (visible * np.iinfo(samples.dtype).max).astype(samples.dtype)
    return np.concatenate([samples, alpha], 2)


def _upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    samples = samples.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else samples
    samples = samples[::-1] if orientation in (3, 4, 7, 8) else samples
    return samples[:, ::-1] if orientation in (2, 3, 6, 7) else samples


def _fill_transparent(samples: np.ndarray) -> np.ndarray:
    hidden = samples[..., -1] == 0
    if samples.shape[2] in (1, 3) or hidden.all() or not hidden.any():
        return samples
    from scipy.ndimage import distance_transform_edt  # slow to import, seldom needed

    rows, columns = distance_transform_edt(hidden, return_distances=False, return_indices=True)
    return np.concatenate([samples[rows, columns, :-1], samples[..., -1:]], 2)


def _encode(path: Path, picture: Picture) -> bytes:
    """Encode in the format of path's suffix."""
    name, options, _ = _FORMATS[path.suffix.lower()]
    samples = _samples(picture)
    if picture.bits == 16:
        return (_png_16 if name == "PNG" else _tiff_16)(samples, picture.icc)
    stream = BytesIO()
    try:
        Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples).save(
            stream, name, icc_profile=picture.icc, **options
        )
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{path}: {samples.shape[1]}x{samples.shape[0]} pixels can't be written: "
            f"{error}; use .png"
        ) from error
    return stream.getvalue()


def _require_sound(picture: Picture) -> None:
    """Refuse a picture whose parts don't fit together."""
    pixels, alpha = (*picture.pixels.shape,), picture.alpha
    opacity = None if alpha is None else (*alpha.shape,)
    if (
        len(pixels) != 4
        or pixels[:2] not in ((1, 1), (1, 3))
        or opacity not in (None, (1, 1, *pixels[2:]))
    ):
        raise ValueError(
            "pixels must be (1,1,h,w) or (1,3,h,w) and alpha None or (1,1,h,w), got "
            f"{pixels} and {opacity}"
        )
    if picture.bits not in (8, 16) or not picture.pixels.numel():
        raise ValueError(
            f"bits must be 8 or 16 and the size at least 1x1, got {picture.bits} and "
            f"{pixels[2]}x{pixels[3]}"
        )
    if picture.icc is not None and picture.icc[16:20] != _SPACE[pixels[1]]:
        raise ValueError(
            f"icc must be a profile for {_SPACE[pixels[1]]!r} as the pixels are, got "
            f"{picture.icc[16:20]!r}; pass None"
        )


def _samples(picture: Picture) -> np.ndarray:
    """Round to integers (h,w,c), a band of rows at a time, since an output may fill the memory."""
    parts = [part.detach()[0] for part in (picture.pixels, picture.alpha) if part is not None]
    height, width = parts[0].shape[1:]
    samples = np.empty((height, width, sum(map(len, parts))), f"uint{picture.bits}")
    for top in range(0, height, BAND):
        band = torch.cat([part[:, top : top + BAND].cpu().float() for part in parts])
        if not band.isfinite().all():
            raise ValueError("pixels and alpha must be finite, got NaN or infinity")
        eight = picture.bits == 8
        band = to_8bit(band) if eight else band.clamp(0, 1).mul_(65535).round_()
        samples[top : top + BAND] = band.permute(1, 2, 0).numpy()
    return samples


def _png_16(samples: np.ndarray, icc: bytes | None) -> bytes:
    """Encode as PNG (ISO/IEC 15948): Pillow writes no 16-bit colour, OpenCV no profile and no gray
    with alpha.
    """
    height, width, channels = samples.shape
    rows = np.ascontiguousarray(samples, ">u2").view(np.uint8).reshape(height, -1)
    filtered = np.diff(
        rows, axis=0, prepend=np.zeros_like(rows[:1])
    )  # filter type 2: each byte minus the one above it
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, (0, 4, 2, 6)[channels - 1], 0, 0, 0))
    ]
    chunks += [(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))] if icc else []
    chunks += [
        (b"IDAT", zlib.compress(np.pad(filtered, ((0, 0), (1, 0)), constant_values=2).tobytes())),
        (b"IEND", b""),
    ]
    framed = (
        struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))
        for tag, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def _tiff_16(samples: np.ndarray, icc: bytes | None) -> bytes:
    """Encode as TIFF 6.0, one deflated strip with horizontal differences; OpenCV would write no
    profile.
    """
    height, width, channels = samples.shape
    strip = zlib.compress(
        np.diff(samples, axis=1, prepend=np.zeros_like(samples[:, :1])).astype("<u2").tobytes()
    )
    tags: Any = TiffImagePlugin.ImageFileDirectory_v2()
    tags.update(
        {
            256: width,
            257: height,
            258: (16,) * channels,
            259: 8,
            262: 1 if channels == 1 else 2,
            273: 0,
            277: channels,
        }
    )
    tags.update(
        {278: height, 279: len(strip), 317: 2}
        | ({338: 2} if channels == 4 else {})
        | ({34675: icc} if icc else {})
    )
    return (
        b"II*\0\x08\0\0\0" + tags.tobytes(8) + strip
    )  # the strip's offset, tag 273, is counted from the directory's end

"""What the pixels of a picture show: a blacked-out or white frame, or a picture; broken and oversized files said so.

Sizes are read from the header before a pixel is decoded, so that a decompression bomb costs nothing. Pillow is
imported when the first picture is looked at.
"""

import io
import threading
import warnings
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

from demur.core.errors import DemurError, MissingExtraError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MAX_BYTES = 96 * 2**20
MAX_PIXELS = 64_000_000
DARKEST, LIGHTEST, FLATTEST = 8, 247, 2.0
HASHED_PIXELS = 4_000_000  # larger pictures are reduced before their pixels are hashed
_BORDER = 0.04  # thin frames and rounded corners of cards around a blacked-out picture
# Pillow's decoders and Python's warning filters are shared; decoding one picture at a time also bounds memory.
_ONE_AT_A_TIME = threading.Lock()


class BrokenImageError(DemurError):
    """Bytes that are no picture, are cut off, or would be too large to decode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A decoded picture in numbers.

    Attributes:
        width: Pixels.
        height: Pixels.
        file_format: 'PNG', 'JPEG', 'WEBP' or 'GIF'.
        darkest: Least luminance, 0 to 255.
        lightest: Largest luminance.
        mean: Mean luminance.
        deviation: Standard deviation of the luminance.
        kind: 'black' or 'white' for an empty frame, 'uniform' for one colour, else 'picture'.
        exactly_black: Every grey level is 0.
        pixels: Hash of the decoded pixels: equal for one picture with different metadata.
    """

    width: int
    height: int
    file_format: str
    darkest: int
    lightest: int
    mean: float
    deviation: float
    kind: Literal["black", "white", "uniform", "picture"]
    exactly_black: bool
    pixels: str


def look_at(data: bytes) -> Frame:
    """Decode a picture and measure its luminance.

    Black is a largest luminance of at most 8 of 255 with a standard deviation of at most 2, over the whole frame or
    within a border of 4 %; white likewise. Transparency is laid on white.

    Raises:
        BrokenImageError: No picture, cut off, or more than 64 megapixels.
        MissingExtraError: Pillow is not installed.
    """
    with _ONE_AT_A_TIME:
        image, file_format = opened(data)
        grey = image.convert("L")
        whole, inner = _levels(grey), _levels(grey.crop(_inner(*image.size)))
        small = (
            image.reduce(1 + int((image.size[0] * image.size[1] / HASHED_PIXELS) ** 0.5)) if _is_large(image) else image
        )
        digest = sha256(f"{image.size}".encode() + small.tobytes()).hexdigest()[:16]
    kind = next((k for part in (whole, inner) if (k := part.kind) in ("black", "white")), whole.kind)
    return Frame(
        width=image.size[0],
        height=image.size[1],
        file_format=file_format,
        darkest=whole.low,
        lightest=whole.high,
        mean=whole.mean,
        deviation=whole.deviation,
        kind=kind,
        exactly_black=whole.high == 0,
        pixels=digest,
    )


def opened(data: bytes) -> tuple[Any, str]:
    """First frame of a picture as Pillow's RGB image, and its format; sizes are checked before decoding.

    Raises:
        BrokenImageError: No picture, cut off, or too large.
        MissingExtraError: Pillow is not installed.
    """
    pil = pillow()
    if len(data) > MAX_BYTES:
        raise BrokenImageError(f"a file of {len(data) / 2**20:.0f} MB; at most {MAX_BYTES // 2**20} MB are decoded")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of bombs; the limit below refuses them
            with pil.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(*image.size)
                file_format = str(image.format)
                return _rgb(pil, image), file_format
    except BrokenImageError:
        raise
    except pil.DecompressionBombError:
        raise BrokenImageError("a decompression bomb: far more pixels than a picture has") from None
    except Exception as error:  # decoders of strangers' bytes raise anything
        raise BrokenImageError(f"not a readable picture: {type(error).__name__}: {str(error)[:120]}") from None


def pillow() -> Any:
    """Pillow's Image module.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError("looking at pictures", extra="images") from None
    return Image


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BrokenImageError(
            f"{width} x {height} pixels ({width * height / 1e6:.0f} megapixels); "
            f"at most {MAX_PIXELS // 1_000_000} are decoded"
        )


def _rgb(pil: Any, image: Any) -> Any:
    import numpy as np

    if image.mode.startswith("I"):  # sixteen bits
        return pil.fromarray((np.asarray(image, dtype=np.float32) / 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        clear = image.convert("RGBA")
        ground = pil.new("RGBA", clear.size, "white")
        ground.alpha_composite(clear)
        return ground.convert("RGB")
    return image.convert("RGB")


def _is_large(image: Any) -> bool:
    return bool(image.size[0] * image.size[1] > HASHED_PIXELS)


def _inner(width: int, height: int) -> tuple[int, int, int, int]:
    left, top = round(width * _BORDER), round(height * _BORDER)
    return left, top, width - left, height - top


@dataclass(frozen=True, slots=True)
class _Levels:
    """Luminance of a part of a picture."""

    low: int
    high: int
    mean: float
    deviation: float

    @property
    def kind(self) -> Literal["black", "white", "uniform", "picture"]:
        flat = self.deviation <= FLATTEST
        if flat and self.high <= DARKEST:
            return "black"
        if flat and self.low >= LIGHTEST:
            return "white"
        return "uniform" if self.high - self.low <= FLATTEST else "picture"


def _levels(grey: Any) -> _Levels:
    # From the histogram: exact, and without a copy of fifty megapixels.
    counts: list[int] = grey.histogram()
    n = sum(counts)
    mean = sum(level * count for level, count in enumerate(counts)) / n
    spread = sum(count * (level - mean) ** 2 for level, count in enumerate(counts)) / n
    present = [level for level, count in enumerate(counts) if count]
    return _Levels(low=present[0], high=present[-1], mean=mean, deviation=spread**0.5)

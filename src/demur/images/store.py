"""Pictures on disk once each, by the hash of their bytes, with small blurred thumbnails for reports and logs.

A log that carries pictures grows to gigabytes; this keeps 64 hexadecimal digits there and the picture here. What a
system made of an unsafe prompt need not be kept: `keep=False` stores thumbnails only.
"""

import io
from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from demur.core.errors import BadInputError
from demur.data.folder import write_bytes
from demur.images.frames import BrokenImageError, opened

THUMBNAIL = 192
_GRAINS = 14  # pixels along the longer side of what a blurred thumbnail still tells
_SUFFIXES = {b"\x89PNG": "png", b"RIFF": "webp", b"GIF8": "gif"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageStore:
    """A folder of pictures.

    Attributes:
        folder: Where they lie: `images/ab/abcdef....png`, `thumbnails/ab/abcdef....jpg`, `....blurred.jpg`.
        keep: Keep the pictures themselves, not only the thumbnails.
    """

    folder: Path
    keep: bool = True

    def put(self, data: bytes) -> str:
        """Store a picture unless it is there, with its thumbnails; returns its SHA-256.

        Bytes that are no picture are kept as `.bin`, without a thumbnail.
        """
        digest = sha256(data).hexdigest()
        if self.keep and self._find(digest) is None:
            write_bytes(self._place("images", digest, _suffix(data)), data)
        if not self.thumbnail_path(digest, blurred=True).is_file():
            self._make_thumbnails(digest, data)
        return digest

    def read(self, digest: str) -> bytes:
        """Bytes of a stored picture.

        Raises:
            BadInputError: It was not kept, or the file was changed.
        """
        path = self._find(digest)
        if path is None:
            raise BadInputError(
                f"{self.folder}: expected picture {digest[:12]}..., found none; run again to keep pictures"
            )
        data = path.read_bytes()
        if sha256(data).hexdigest() != digest:
            raise BadInputError(f"{path}: expected the picture of that hash, got other bytes; remove it and run again")
        return data

    def thumbnail_path(self, digest: str, *, blurred: bool) -> Path:
        """Where a picture's thumbnail lies; it may be missing for bytes that are no picture."""
        return self._place("thumbnails", digest, "blurred.jpg" if blurred else "jpg")

    def thumbnail(self, digest: str, *, blurred: bool = True) -> bytes | None:
        """A thumbnail as JPEG, blurred unless asked otherwise; None for bytes that are no picture."""
        path = self.thumbnail_path(digest, blurred=blurred)
        return path.read_bytes() if path.is_file() else None

    def data_url(self, digest: str, *, blurred: bool = True) -> str:
        """A thumbnail to put into a page or a log; '' if there is none."""
        data = self.thumbnail(digest, blurred=blurred)
        return "data:image/jpeg;base64," + b64encode(data).decode("ascii") if data else ""

    def _make_thumbnails(self, digest: str, data: bytes) -> None:
        try:
            image, _ = opened(data)
        except BrokenImageError:
            return
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        if self.keep:
            write_bytes(self.thumbnail_path(digest, blurred=False), _jpeg(image, 80))
        longest = max(image.size)
        grains = image.resize(tuple(max(1, round(side * _GRAINS / longest)) for side in image.size), 4)
        write_bytes(self.thumbnail_path(digest, blurred=True), _jpeg(grains.resize(image.size, 3), 60))

    def _find(self, digest: str) -> Path | None:
        if not (len(digest) == 64 and set(digest) <= set("0123456789abcdef")):
            return None
        return next(iter((self.folder / "images" / digest[:2]).glob(f"{digest}.*")), None)

    def _place(self, kind: str, digest: str, suffix: str) -> Path:
        return self.folder / kind / digest[:2] / f"{digest}.{suffix}"


def _jpeg(image: object, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)  # type: ignore[attr-defined]  # Pillow is imported lazily
    return buffer.getvalue()


def _suffix(data: bytes) -> str:
    return "jpg" if data[:3] == b"\xff\xd8\xff" else _SUFFIXES.get(data[:4], "bin")

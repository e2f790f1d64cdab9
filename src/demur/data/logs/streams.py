"""Bytes of text files in blocks of whole lines: plain, gzip or zstd, a range or all of it, in constant memory."""

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from demur.core.errors import BadInputError, MissingExtraError
from demur.data.logs.batches import MAX_ROW_BYTES

CHUNK_BYTES = 8 << 20
_PACKED_CHUNK = 1 << 20
_ZSTD_CHUNK = 1 << 14  # zstd unpacks a chunk in one go: a small one bounds what it can grow to
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines of a file; the last may lack its newline. `line` is the number of the first, from 1."""

    line: int
    data: bytes


class Damaged(Exception):
    """A packed file breaks off or holds damaged data; what came before was delivered."""


def open_file(path: str) -> BinaryIO:
    """Open a file for reading.

    Raises:
        BadInputError: It cannot be read.
    """
    try:
        return open(path, "rb")
    except OSError as error:
        raise BadInputError(f"{path}: expected a readable file; {error.strerror or error}") from None


def chunks(path: str, compression: str, start: int = 0, stop: int = -1) -> Iterator[bytes]:
    """The unpacked bytes of a file, or of a range of an unpacked one.

    Raises:
        BadInputError: The file cannot be read.
        Damaged: It is packed and breaks off, or holds damaged data.
        MissingExtraError: zstd without its package.
    """
    with open_file(path) as file:
        try:
            if compression == "gzip":
                yield from _gunzipped(file)
            elif compression == "zstd":
                yield from _unzstd(file)
            else:
                yield from _plain(file, start, stop)
        except OSError as error:
            raise BadInputError(f"{path}: expected a readable file; {error.strerror or error}") from None


def _plain(file: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    file.seek(start)
    left = stop - start if stop >= 0 else None
    while left is None or left > 0:
        data = file.read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
        if not data:
            return
        if left is not None:
            left -= len(data)
        yield data


def _gunzipped(file: BinaryIO) -> Iterator[bytes]:
    stream = zlib.decompressobj(wbits=31)
    data, begun = b"", False
    while True:
        data = data or file.read(_PACKED_CHUNK)
        if not data:
            break
        try:
            out = stream.decompress(data, CHUNK_BYTES)
        except zlib.error as error:
            raise Damaged(f"damaged data ({error})") from None
        begun = True
        if out:
            yield out
        if stream.eof:
            data = (stream.unused_data or file.read(_PACKED_CHUNK)).lstrip(b"\0")
            stream, begun = zlib.decompressobj(wbits=31), False
        else:
            data = stream.unconsumed_tail
    if begun:
        raise Damaged("one that ends early")


def _unzstd(file: BinaryIO) -> Iterator[bytes]:
    zstandard = load_zstandard("reading .zst files")
    stream, begun = zstandard.ZstdDecompressor().decompressobj(), False
    data = b""
    while data := data or file.read(_ZSTD_CHUNK):
        try:
            out = stream.decompress(data)
        except zstandard.ZstdError as error:
            raise Damaged(f"damaged data ({error})") from None
        begun, data = True, b""
        if out:
            yield out
        if stream.eof:
            data = stream.unused_data
            stream, begun = zstandard.ZstdDecompressor().decompressobj(), False
    if begun:
        raise Damaged("one that ends early")


def load_zstandard(feature: str) -> Any:
    """The zstandard package.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import zstandard
    except ImportError:
        raise MissingExtraError(feature, extra="classify") from None
    return zstandard


def blocks(
    path: str, compression: str, *, start: int = 0, stop: int = -1, first_line: int = 1
) -> Iterator[Block | BadInputError]:
    """Whole lines of a text file, some at a time, with an error in the place of each line too long to hold.

    A damaged file ends in an error; the line it broke off in is left out.
    """
    line, carry, overlong = first_line, b"", 0
    at_start = start == 0
    try:
        for chunk in chunks(path, compression, start, stop):
            data = carry + chunk if carry else chunk
            carry = b""
            if at_start:
                data, at_start = data.removeprefix(_BOM), False
            if overlong:
                end = data.find(b"\n")
                overlong += len(data) if end < 0 else end
                if end < 0:
                    continue
                yield _too_long(path, line, overlong)
                data, overlong, line = data[end + 1 :], 0, line + 1
            cut = data.rfind(b"\n") + 1
            if cut:
                yield Block(line, data[:cut])
                line += data.count(b"\n", 0, cut)
            carry = data[cut:]
            if len(carry) > MAX_ROW_BYTES:
                overlong, carry = len(carry), b""
    except Damaged as error:
        kind = compression or "text"
        yield BadInputError(
            f"{path}:{line}: expected a whole {kind} file, got {error}; copy or download it again, "
            "or pass --skip-bad to read what came before"
        )
        return
    if overlong:
        yield _too_long(path, line, overlong)
    elif carry:
        yield Block(line, carry)


def _too_long(path: str, line: int, n_bytes: int) -> BadInputError:
    return BadInputError(
        f"{path}:{line}: expected a row of at most {MAX_ROW_BYTES >> 20} MiB, got {n_bytes / (1 << 20):.0f} MiB; "
        "mend it, or pass --skip-bad to leave it out"
    )


def lines_of(path: str, block: Block) -> Iterator[tuple[int, str] | BadInputError]:
    """The lines of a block that hold something, as text with their numbers, or what is wrong with one."""
    for line, raw in enumerate(block.data.split(b"\n"), start=block.line):
        if not raw.strip():
            continue
        if len(raw) > MAX_ROW_BYTES:
            yield _too_long(path, line, len(raw))
            continue
        try:
            yield line, raw.decode("utf-8")
        except UnicodeDecodeError as error:
            yield not_utf8(path, line, raw[error.start])


def not_utf8(path: str, line: int, byte: int) -> BadInputError:
    """The error for bytes that are no text."""
    return BadInputError(
        f"{path}:{line}: expected UTF-8, got byte 0x{byte:02x}; convert the file, or mend it, "
        "or pass --skip-bad to leave it out"
    )


class ChunkReader(io.RawIOBase):
    """Chunks as a binary file, for readers that want one. An empty chunk is no end."""

    def __init__(self, source: Iterator[bytes]) -> None:
        self._source = source
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            try:
                self._left = memoryview(next(self._source))
            except StopIteration:
                return 0
        n_bytes = min(len(buffer), len(self._left))
        buffer[:n_bytes] = self._left[:n_bytes]
        self._left = self._left[n_bytes:]
        return n_bytes

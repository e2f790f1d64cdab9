"""CSV: whole blocks through Arrow where the rows are regular, row by row from the first one that is not."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from demur.core.errors import BadInputError
from demur.data.logs.assembly import canonical, load_pyarrow, slices
from demur.data.logs.batches import MAX_ROW_BYTES, LogBatch, Shard
from demur.data.logs.recording import Bin, Numbered, batches_of
from demur.data.logs.streams import ChunkReader, Damaged, chunks
from demur.data.tables import SKIP

_BOM = b"\xef\xbb\xbf"
_HEAD_BYTES = 1 << 20
_DELIMITERS = ",;\t|"


@dataclass(frozen=True, slots=True)
class Header:
    """Columns of a CSV file, how its cells are divided, the line its rows begin on, and whether newlines end them."""

    names: tuple[str, ...]
    delimiter: str
    first_line: int
    is_regular: bool


def read_header(path: str, compression: str) -> Header:
    """The header of a CSV file.

    Raises:
        BadInputError: There is none.
    """
    head = b""
    try:
        for chunk in chunks(path, compression):
            head += chunk
            if len(head) >= _HEAD_BYTES:
                break
    except Damaged as error:
        if not head:
            raise BadInputError(f"{path}: expected a whole {compression} file, got {error}; copy it again") from None
    text = head[:_HEAD_BYTES].removeprefix(_BOM).decode("utf-8", "surrogateescape")
    if not text.strip():
        raise BadInputError(f"{path}: expected rows, got an empty file; check that it was written or downloaded whole")
    delimiter = _delimiter(path, text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        cells = next(row for row in reader if row)
    except (csv.Error, StopIteration) as error:
        raise BadInputError(f"{path}:1: expected a header of column names; {error}") from None
    return Header(_unique(cells), delimiter, reader.line_num + 1, "\n" in text)


def _delimiter(path: str, text: str) -> str:
    if ".tsv" in path.casefold():
        return "\t"
    line = text.split("\n", 1)[0]
    return max(_DELIMITERS, key=lambda d: (line.count(d), -_DELIMITERS.index(d)))


def _unique(cells: list[str]) -> tuple[str, ...]:
    names: list[str] = []
    for position, cell in enumerate(cells, start=1):
        name = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in cell.strip()) or f"column_{position}"
        taken, number = name, 2
        while taken in names:
            taken, number = f"{name}_{number}", number + 1
        names.append(taken)
    return tuple(names)


def read_csv(shard: Shard, batch_rows: int, bin_: Bin) -> Iterator[LogBatch]:
    """Batches of a CSV file. Cells of the input are strings."""
    header = read_header(shard.path, shard.compression)
    source = _Source(shard.path, shard.compression)
    line = 1
    data = b""
    if shard.format == "plain" and header.is_regular:
        for block in source.blocks():
            rest = _without_lines(block, header.first_line - line)
            table = _through_arrow(rest, header, shard, max(line, header.first_line))
            if table is None:
                data = block
                break
            yield from slices(table, batch_rows)
            line += block.count(b"\n")
        else:
            if source.damage is not None:
                bin_.drop(source.damage)
            return
    rows = _slow(chain((data, source.carry), source.rest()), header, source, line)
    yield from batches_of(rows, shard, batch_rows, bin_)


def read_sample(path: str, compression: str, header: Header, n_rows: int) -> Iterator[Numbered | BadInputError]:
    """The first rows of a CSV file."""
    source = _Source(path, compression)
    yield from islice(_slow(source.rest(), header, source, 1), n_rows)


class _Source:
    """The bytes of a file, cut at the ends of records where quotes are balanced; `carry` is cut off, not yet given."""

    def __init__(self, path: str, compression: str) -> None:
        self.path, self._compression = path, compression
        self._chunks = chunks(path, compression)
        self._begun = False
        self.carry = b""
        self.damage: BadInputError | None = None

    def rest(self) -> Iterator[bytes]:
        """What is left, in chunks; a damaged file ends early and leaves its complaint in `damage`."""
        try:
            for chunk in self._chunks:
                yield chunk if self._begun else chunk.removeprefix(_BOM)
                self._begun = True
        except Damaged as error:
            self.damage = BadInputError(
                f"{self.path}: expected a whole {self._compression} file, got {error}; copy or download it again, "
                "or pass --skip-bad to read what came before"
            )

    def blocks(self) -> Iterator[bytes]:
        """Blocks of whole records; the last may lack its newline. Of a damaged file, what is sure."""
        for chunk in self.rest():
            data = self.carry + chunk if self.carry else chunk
            cut = _last_end(data) or (len(data) if len(data) > 2 * MAX_ROW_BYTES else 0)
            self.carry = data[cut:]
            if cut:
                yield data[:cut]
        last, self.carry = self.carry, b""
        if last and self.damage is None:
            yield last


def _last_end(data: bytes) -> int:
    """The position after the last newline outside quotes; 0 if there is none."""
    ends = _record_ends(data)
    return int(ends[-1]) + 1 if len(ends) else 0


def _record_ends(data: bytes) -> Any:
    """Positions of the newlines that have an even number of quotes before them."""
    import numpy as np

    letters = np.frombuffer(data, np.uint8)
    newlines = np.flatnonzero(letters == 10)
    if b'"' not in data:
        return newlines
    quotes = np.flatnonzero(letters == 34)
    return newlines[np.searchsorted(quotes, newlines) % 2 == 0]


def _without_lines(block: bytes, n_lines: int) -> bytes:
    for _ in range(n_lines):
        _, _, block = block.partition(b"\n")
    return block


def _through_arrow(data: bytes, header: Header, shard: Shard, line: int) -> LogBatch | None:
    """Regular rows in one go; None if anything asks for a closer look."""
    pa = load_pyarrow()
    from pyarrow import csv as arrow_csv

    if not data.strip():
        return LogBatch(*_empty(header))
    lines = _lines(data, line)
    if lines is None:
        return None
    names = list(header.names)
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(data),
            read_options=arrow_csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=names),
            parse_options=arrow_csv.ParseOptions(delimiter=header.delimiter, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False, null_values=[]
            ),
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    combined = table.combine_chunks().to_batches()
    if len(combined) != 1 or combined[0].num_rows != len(lines):
        return None
    return LogBatch(canonical(combined[0], dict(shard.columns), file=shard.path, lines=lines), combined[0])


def _empty(header: Header) -> tuple[Any, Any]:
    pa = load_pyarrow()
    table = pa.RecordBatch.from_pydict({name: pa.array([], pa.string()) for name in header.names})
    return canonical(table, {}, file="", lines=pa.array([], pa.int64())), table


def _lines(data: bytes, line: int) -> Any:
    """The line each record begins on; None where one is too long to be taken unseen."""
    import numpy as np

    pa = load_pyarrow()
    ends = _record_ends(data)
    if not data.endswith(b"\n"):
        ends = np.append(ends, len(data))
    starts = np.concatenate(([0], ends[:-1] + 1)) if len(ends) else np.array([0])
    if not len(ends) or int((ends - starts).max()) > MAX_ROW_BYTES:
        return None
    newlines = np.flatnonzero(np.frombuffer(data, np.uint8) == 10)
    numbers = line + np.searchsorted(newlines, starts)
    sizes = ends - starts
    # A line of nothing, or of a carriage return, is no record.
    blank = (sizes == 0) | ((sizes == 1) & (np.frombuffer(data, np.uint8)[np.minimum(starts, len(data) - 1)] == 13))
    return pa.array(numbers[~blank].astype(np.int64))


def _slow(source: Iterator[bytes], header: Header, state: _Source, line: int) -> Iterator[Numbered | BadInputError]:
    """Rows one by one, from a line on; the last row of a damaged file is left out, since it may be cut."""
    before = csv.field_size_limit(MAX_ROW_BYTES)
    raw = io.BufferedReader(ChunkReader(source), 1 << 20)
    text = io.TextIOWrapper(raw, encoding="utf-8", errors="surrogateescape", newline="")
    held: Numbered | BadInputError | None = None
    try:
        for item in _rows(state.path, text, header, line):
            if held is not None:
                yield held
            held = item
    finally:
        csv.field_size_limit(before)
    if state.damage is not None:
        yield state.damage
    elif held is not None:
        yield held


def _rows(path: str, text: io.TextIOBase, header: Header, line: int) -> Iterator[Numbered | BadInputError]:
    for _ in range(header.first_line - line):
        text.readline()
        line += 1
    lines = _Lines(text)
    reader = csv.reader(lines, delimiter=header.delimiter, strict=True)
    while True:
        place = line + reader.line_num
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            why = f"a row of at most {MAX_ROW_BYTES >> 20} MiB" if "limit" in str(error) else "a CSV row"
            yield BadInputError(f"{path}:{place}: expected {why}; {error} (an unclosed quote?); {SKIP}")
            continue
        if lines.was_cut:
            lines.was_cut = False
            yield BadInputError(
                f"{path}:{place}: expected a row of at most {MAX_ROW_BYTES >> 20} MiB, got more; {SKIP}"
            )
        elif cells:
            yield _row(path, place, header, cells)


class _Lines:
    """Lines of a text, none of which is held beyond the limit of a row; `was_cut` tells that one was."""

    def __init__(self, text: io.TextIOBase) -> None:
        self._text = text
        self.was_cut = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(MAX_ROW_BYTES + 1)
        if not line:
            raise StopIteration
        piece = line
        while len(piece) > MAX_ROW_BYTES and not piece.endswith(("\n", "\r")):
            self.was_cut = True
            piece = self._text.readline(MAX_ROW_BYTES + 1)
        return line


def _row(path: str, line: int, header: Header, cells: list[str]) -> Numbered | BadInputError:
    if len(cells) != len(header.names):
        return BadInputError(f"{path}:{line}: expected {len(header.names)} cells, got {len(cells)}; {SKIP}")
    for name, cell in zip(header.names, cells, strict=True):
        if not cell.isascii() and any("\udc80" <= c <= "\udcff" for c in cell):
            return BadInputError(f"{path}:{line}:{name}: expected UTF-8, got other bytes; {SKIP}")
    return line, dict(zip(header.names, cells, strict=True))

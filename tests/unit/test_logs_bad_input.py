"""Broken logs are named by file, line and field, or skipped and counted; nothing crashes and nothing is lost unseen."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from demur.core.errors import BadInputError
from demur.data.logs import list_shards, read_log_batches
from demur.data.logs import streams as streams_module
from demur.data.logs.batches import MAX_ROW_BYTES

GOOD = b'{"prompt": "q", "response": "a"}\n'


def read(path: Path, **options: Any) -> tuple[list[str], list[str]]:
    """Replies, and what was left out."""
    bad: list[str] = []
    batches = read_log_batches([path], skip_bad=True, on_bad=lambda error: bad.append(str(error)), **options)
    return [text for batch in batches for text in batch.rows.column("response").to_pylist()], bad


def fails(path: Path, match: str) -> None:
    with pytest.raises(BadInputError, match=match):
        list(read_log_batches([path]))


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("line", "match"),
    [
        (b'{"prompt": "q", "response": \n', r"a\.jsonl:3: expected a JSON object"),
        (b'{"prompt": "q", "response": "caf\xe9"}\n', r"a\.jsonl:3: expected UTF-8, got byte 0xe9"),
        (b'{"prompt": "q", "response": 7}\n', r"a\.jsonl:3:response: expected the reply's text, got 7"),
        (b'{"prompt": 7, "response": "a"}\n', r"a\.jsonl:3:prompt: expected the prompt's text, got 7"),
        (b'{"prompt": "q", "response": ["x"]}\n', r"a\.jsonl:3:response: expected the reply's text, got \['x'\]"),
        (b"[1, 2]\n", r"a\.jsonl:3:.* expected"),
        (b"17\n", r"a\.jsonl:3: expected a JSON object, got 17"),
        (b"{}\n", r"a\.jsonl:3:response: expected"),
        (b'{"other": "x"}\n', r"a\.jsonl:3:response: expected"),
        (b'{"prompt": "q", "response": "a"} {"prompt": "q", "response": "a"}\n', r"a\.jsonl:3: expected a JSON object"),
        (b"[" * 100_000 + b"\n", r"a\.jsonl:3: expected"),
    ],
)
def test_a_bad_line_is_named_and_skipped(tmp_path: Path, line: bytes, match: str) -> None:
    path = written(tmp_path / "a.jsonl", GOOD + b"\n" + line + GOOD)
    fails(path, match)
    replies, bad = read(path)
    assert replies == ["a", "a"]
    assert len(bad) == 1
    assert "--skip-bad" in bad[0]
    assert "\n" not in bad[0]


def test_lone_surrogates_and_null_bytes_survive_as_something_that_can_be_written(tmp_path: Path) -> None:
    rows = [
        {"prompt": "q\x00", "response": "a\x00b"},
        {"prompt": "q", "response": "x\ud83dy"},
        {"prompt": "q", "response": "\ud83d\ude00"},
    ]
    for name, text in (
        ("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows)),
        ("a.json", json.dumps(rows)),
    ):
        path = written(tmp_path / name, text.encode())
        replies, bad = read(path)
        assert replies == ["a\x00b", "x\ufffdy", "😀"]
        assert not bad
        assert "".join(replies).encode("utf-8")


@pytest.mark.parametrize("cut", [1, 20, 400])
def test_a_truncated_gzip_is_named_and_what_came_before_is_read(tmp_path: Path, cut: int) -> None:
    rows = b"".join(json.dumps({"prompt": "q", "response": f"{i * 7919 % 1000}"}).encode() + b"\n" for i in range(2000))
    path = written(tmp_path / "a.jsonl.gz", gzip.compress(rows)[:-cut])
    fails(path, r"a\.jsonl\.gz:\d+: expected a whole gzip file, got one that ends early")
    replies, bad = read(path)
    assert len(bad) == 1
    assert 1000 < len(replies) <= 2000
    assert replies == [f"{i * 7919 % 1000}" for i in range(len(replies))]


def test_a_damaged_gzip_and_a_truncated_zstd_are_named(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(GOOD * 1000))
    packed[-6] ^= 255
    path = written(tmp_path / "a.jsonl.gz", bytes(packed))
    fails(path, "expected a whole gzip file, got damaged data")
    noise = b"".join(json.dumps({"prompt": "q", "response": str(i * i)}).encode() + b"\n" for i in range(5000))
    path = written(tmp_path / "a.jsonl.zst", zstandard.compress(noise)[:-30])
    fails(path, "expected a whole zstd file, got one that ends early")


def test_a_truncated_gzip_of_csv_leaves_the_cut_row_out(tmp_path: Path) -> None:
    rows = "prompt,response\n" + "".join(f"q,answer {i * 7919 % 1000}\n" for i in range(3000))
    path = written(tmp_path / "a.csv.gz", gzip.compress(rows.encode())[:-50])
    fails(path, "expected a whole gzip file")
    replies, bad = read(path)
    assert len(bad) == 1
    assert replies == [f"answer {i * 7919 % 1000}" for i in range(len(replies))]


def test_concatenated_gzip_members_are_read_on(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl.gz", gzip.compress(GOOD) + gzip.compress(GOOD) + b"\0\0")
    assert read(path) == (["a", "a"], [])


def test_a_line_of_50_mb_is_named_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(GOOD)
        file.write(b'{"prompt": "q", "response": "' + b"x" * 50_000_000 + b'"}\n')
        file.write(GOOD)
    fails(path, r"a\.jsonl:2: expected a row of at most 32 MiB, got 48 MiB")
    replies, bad = read(path)
    assert replies == ["a", "a"]
    assert len(bad) == 1


def test_an_overlong_csv_row_and_parquet_cell_are_named_and_skipped(tmp_path: Path) -> None:
    text = "x" * (MAX_ROW_BYTES + 10)
    path = written(tmp_path / "a.csv", f"prompt,response\nq,a\nq,{text}\nq,b\n".encode())
    replies, bad = read(path)
    assert replies == ["a", "b"]
    assert len(bad) == 1
    assert "a.csv:3" in bad[0]
    table = pa.Table.from_pylist([{"prompt": "q", "response": "a"}, {"prompt": "q", "response": text}])
    parquet.write_table(table, tmp_path / "a.parquet")
    replies, bad = read(tmp_path / "a.parquet")
    assert replies == ["a"]
    assert "a.parquet:2:response: expected a cell of at most 32 MiB" in bad[0]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "a.tsv"])
@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    path = written(tmp_path / name, gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(BadInputError, match=rf"{name}.*: expected .*; "):
        list_shards([path])
    assert read(path)[0] == []
    assert len(read(path)[1]) == 1


def test_ragged_csv_rows_are_named_by_line_and_skipped(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", b'id,prompt,response\n1,q,a\n2,q\n3,"q\nq",c\n4,q,d,e\n5,q,f\n')
    fails(path, r"a\.csv:3: expected 3 cells, got 2")
    replies, bad = read(path)
    assert replies == ["a", "c", "f"]
    assert [error.split(":")[1] for error in bad] == ["3", "6"]


def test_a_file_read_partly_with_care_keeps_one_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "CHUNK_BYTES", 200)
    table = b"prompt,response\n" + b"q,a\n" * 200 + b"q\n" + b"q,a\n" * 200
    lines = GOOD * 100 + b'{"prompt": "q", "response": "\\ud800"}\n' + GOOD * 100
    for path in (written(tmp_path / "a.csv", table), written(tmp_path / "a.jsonl", lines)):
        batches = list(read_log_batches([path], skip_bad=True))
        assert len(batches) > 2
        assert len({str(batch.extra.schema) for batch in batches}) == 1


def test_a_csv_with_bytes_that_are_no_text_names_line_and_column(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", b"prompt,response\nq,a\nq,caf\xe9\nq,b\n")
    fails(path, r"a\.csv:3:response: expected UTF-8")
    assert read(path)[0] == ["a", "b"]


def test_an_unclosed_quote_does_not_swallow_the_file_unseen(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", b'prompt,response\nq,a\nq,"b\nq,c\n')
    fails(path, r"a\.csv:3: expected")
    replies, bad = read(path)
    assert replies == ["a"]
    assert len(bad) == 1


def test_stray_quotes_inside_a_cell_do_not_join_rows(tmp_path: Path) -> None:
    rows = "".join(f'q,a 5" pipe {i}\n' for i in range(3))
    path = written(tmp_path / "a.csv", b"prompt,response\n" + rows.encode())
    assert read(path) == ([f'a 5" pipe {i}' for i in range(3)], [])


def test_semicolons_byte_order_marks_and_carriage_returns_are_understood(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", b"\xef\xbb\xbfprompt;response\r\nq, q;a\r\n\r\nq;b\r\n")
    assert read(path) == (["a", "b"], [])
    path = written(tmp_path / "b.csv", b"prompt,response\rq,a\rq,b\r")
    assert read(path) == (["a", "b"], [])
    path = written(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n") * 2)
    assert read(path) == (["a", "a"], [])


def test_a_broken_json_array_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", b'[{"prompt": "q", "response": "a"}, {"prompt": "q", "resp')
    fails(path, r"a\.json:2: expected a JSON object")
    replies, bad = read(path)
    assert (replies, len(bad)) == (["a"], 1)


def test_a_json_array_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "CHUNK_BYTES", 7)
    rows = [{"prompt": "q é", "response": f"a {i} \u2028 😀"} for i in range(20)]
    path = written(tmp_path / "a.json", json.dumps(rows, ensure_ascii=False).encode())
    assert read(path) == ([row["response"] for row in rows], [])


def test_jsonl_and_csv_in_small_pieces_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": f'q "{i}", é', "response": f"a\n{i}\r\n😀"} for i in range(30)]
    lines = written(tmp_path / "a.jsonl", b"".join(json.dumps(r).encode() + b"\n" for r in rows))
    quoted = "".join('"{}","{}"\n'.format(*(v.replace('"', '""') for v in r.values())) for r in rows)
    table = written(tmp_path / "a.csv", b"prompt,response\n" + quoted.encode())
    for size in (5, 64, 1000):
        monkeypatch.setattr(streams_module, "CHUNK_BYTES", size)
        assert read(lines) == ([r["response"] for r in rows], [])
        assert read(table) == ([r["response"] for r in rows], [])


def test_a_parquet_file_that_is_none_is_named(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.arrow"):
        fails(written(tmp_path / name, b"PAR1 nonsense"), rf"{name}: expected (Parquet|Arrow) data")
    fails(written(tmp_path / "a.eval", b"nonsense"), r"a\.eval: expected an Inspect log")


def test_a_parquet_column_of_numbers_is_no_reply(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"prompt": ["q"], "response": [1]}), tmp_path / "a.parquet")
    fails(tmp_path / "a.parquet", r"a\.parquet:1:response: expected the reply's text, got 1")
    with pytest.raises(BadInputError, match=r"a\.parquet:1:response: expected text, got int64"):
        list_shards([tmp_path / "a.parquet"], columns={"response": "response"})


def test_parquet_rows_of_nothing_and_of_broken_text_are_named_and_skipped(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xe9b")]
    )
    table = pa.table({"prompt": pa.array(["q", "q", "q"]), "response": broken})
    parquet.write_table(table, tmp_path / "a.parquet")
    fails(tmp_path / "a.parquet", r"a\.parquet:2:response: expected UTF-8, got byte 0xe9")
    assert read(tmp_path / "a.parquet")[0] == ["a", "b"]
    empty = pa.table({"prompt": pa.array(["q", None, None]), "response": pa.array(["a", None, "b"])})
    parquet.write_table(empty, tmp_path / "b.parquet")
    fails(tmp_path / "b.parquet", r"b\.parquet:2:response: expected the reply's text, got none")
    replies, bad = read(tmp_path / "b.parquet")
    assert (replies, len(bad)) == (["a", "b"], 1)


def test_binary_parquet_columns_of_text_are_read(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"prompt": [b"q"], "response": ["é".encode()]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == (["é"], [])


def test_a_missing_file_and_an_unknown_kind_are_named(tmp_path: Path) -> None:
    fails(tmp_path / "none.jsonl", r"none\.jsonl: expected a readable file")
    fails(written(tmp_path / "a.docx", b"x"), r"a\.docx: expected a file ending in")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", "expected a folder with logs")


def test_a_bad_file_among_good_ones_is_left_out_when_asked(tmp_path: Path) -> None:
    good, bad_file = written(tmp_path / "a.jsonl", GOOD), written(tmp_path / "b.parquet", b"x")
    bad: list[BadInputError] = []
    shards = list_shards([good, bad_file], skip_bad=True, on_bad=bad.append)
    assert [shard.path for shard in shards] == [str(good)]
    assert len(bad) == 1


def test_hostile_column_names_do_no_harm(tmp_path: Path) -> None:
    row = {"prompt": "q", "response": "a", "other_fields": "x", "": "e", "a\ud800": "s", "line": "9"}
    batches = list(read_log_batches([written(tmp_path / "a.jsonl", json.dumps(row).encode())]))
    assert batches[0].rows.column("line").to_pylist() == [1]
    assert json.loads(batches[0].extra.to_pylist()[0]["other_fields"]) == {"other_fields": "x"}
    path = written(tmp_path / "a.csv", b"prompt,response,x,x,\nq,a,1,2,3\n")
    batch = next(iter(read_log_batches([path])))
    assert batch.extra.schema.names == ["prompt", "response", "x", "x_2", "column_5"]

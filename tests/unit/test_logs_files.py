"""Files of any kind give the same batches; pieces of a file give what the whole gives."""

import csv
import gzip
import json
import pickle
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from demur.core.errors import BadInputError
from demur.data.logs import (
    FORMATS,
    LOG_COLUMNS,
    LogBatch,
    exchange_from_record,
    list_shards,
    read_log_batches,
    read_shard,
)
from demur.data.logs import json_lines as json_lines_module
from demur.data.logs.assembly import log_schema
from demur.data.logs.tables import ROLES

ROWS: list[dict[str, Any]] = [
    {
        "id": f"row-{i}",
        "prompt": f'Question {i},\nwith "quotes" and é',
        "response": f"Answer {i}: naïve\r\ntext" if i % 3 else "I'm sorry, but no.",
        "model": "m-1" if i % 2 else "m-2",
        "finish_reason": "stop" if i % 5 else "content_filter",
        "created_at": f"2025-01-02T03:04:{i % 60:02d}Z",
        "topic": "bread" if i % 2 else "",
    }
    for i in range(50)
]


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(path: Path | list[Path], **options: Any) -> list[dict[str, Any]]:
    paths = path if isinstance(path, list) else [path]
    return [row for batch in read_log_batches(paths, **options) for row in batch.rows.to_pylist()]


def without_place(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in ("source_file", "line")} for row in rows]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    plain = write_jsonl(tmp_path / "a.jsonl", ROWS)
    data = plain.read_bytes()
    found = {"jsonl": plain, "csv": write_csv(tmp_path / "a.csv", ROWS)}
    for name, packed in (("jsonl.gz", gzip.compress(data)), ("jsonl.zst", zstandard.compress(data))):
        found[name] = tmp_path / f"a.{name}"
        found[name].write_bytes(packed)
    found["csv.gz"] = tmp_path / "a.csv.gz"
    found["csv.gz"].write_bytes(gzip.compress(found["csv"].read_bytes()))
    found["tsv"] = tmp_path / "a.tsv"
    with found["tsv"].open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(ROWS[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(ROWS)
    found["json"] = tmp_path / "a.json"
    found["json"].write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    found["framed"] = tmp_path / "framed.json"
    found["framed"].write_text(json.dumps({"name": "log", "rows": ROWS}), encoding="utf-8")
    found["disguised"] = tmp_path / "lines.json"
    found["disguised"].write_bytes(data)
    table = pa.Table.from_pylist(ROWS)
    found["parquet"] = tmp_path / "a.parquet"
    parquet.write_table(table, found["parquet"], row_group_size=7)
    found["large"] = tmp_path / "large.parquet"
    large = pa.schema([pa.field(f.name, pa.large_string()) for f in table.schema])
    parquet.write_table(table.cast(large), found["large"])
    found["arrow"] = tmp_path / "a.arrow"
    with pa.OSFile(str(found["arrow"]), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer_:
        writer_.write_table(table, max_chunksize=11)
    found["stream"] = tmp_path / "stream.arrow"
    with pa.OSFile(str(found["stream"]), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer_:
        writer_.write_table(table)
    views = pa.schema([pa.field(f.name, pa.string_view()) for f in table.schema])
    found["views"] = tmp_path / "views.arrow"
    with pa.OSFile(str(found["views"]), "wb") as sink, pa.ipc.new_file(sink, views) as writer_:
        writer_.write_table(table.cast(views))
    coded = pa.table({name: table[name].dictionary_encode() for name in table.schema.names})
    found["coded"] = tmp_path / "coded.parquet"
    parquet.write_table(coded, found["coded"])
    return found


def test_the_same_rows_in_any_kind_of_file_are_the_same_batches(files: dict[str, Path]) -> None:
    expected = without_place(read(files["jsonl"]))
    assert len(expected) == 50
    assert expected[0]["signal"] == "content_filter: content_filter"
    assert expected[0]["origin"] == "provider_filter"
    assert expected[1]["time"].isoformat() == "2025-01-02T03:04:01+00:00"
    for name, path in files.items():
        assert without_place(read(path)) == expected, name


def test_text_files_keep_the_inputs_own_columns_alike(files: dict[str, Path]) -> None:
    def extra(name: str) -> list[dict[str, Any]]:
        found = [row for batch in read_log_batches([files[name]]) for row in batch.extra.to_pylist()]
        return [{k: v for k, v in row.items() if k != "other_fields"} for row in found]

    assert extra("jsonl") == extra("jsonl.gz") == extra("csv") == extra("parquet") == extra("json") == ROWS


def test_every_batch_has_the_same_schema(files: dict[str, Path]) -> None:
    for path in files.values():
        for batch in read_log_batches([path], batch_rows=8):
            assert batch.rows.schema == log_schema()
            assert tuple(batch.rows.schema.names) == LOG_COLUMNS
            assert len(batch) == batch.extra.num_rows <= 8
            assert all(batch.rows.column(name).null_count == 0 for name in LOG_COLUMNS if name != "time")


def test_lines_are_the_lines_of_the_file(files: dict[str, Path]) -> None:
    assert [row["line"] for row in read(files["jsonl"])] == list(range(1, 51))
    lines = files["csv"].read_text(encoding="utf-8").split("\n")
    for row in read(files["csv"]):
        assert lines[row["line"] - 1].startswith(row["id"] + ",")


def test_parquet_columns_are_not_copied(files: dict[str, Path]) -> None:
    batch = next(iter(read_log_batches([files["parquet"]])))
    own, canonical = batch.extra.column("prompt").buffers()[2], batch.rows.column("prompt").buffers()[2]
    assert own.address == canonical.address


def test_the_fast_and_the_careful_way_agree(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    fast = list(read_log_batches([files["jsonl"]]))
    fast_csv = list(read_log_batches([files["csv"]]))
    monkeypatch.setattr(json_lines_module, "_through_arrow", lambda *_: None)
    monkeypatch.setattr("demur.data.logs.csv_rows._through_arrow", lambda *_: None)
    for quick, path in ((fast, files["jsonl"]), (fast_csv, files["csv"])):
        slow = list(read_log_batches([path]))
        assert rows_of(slow) == rows_of(quick)
        assert extras_of(slow) == extras_of(quick)


def rows_of(batches: list[LogBatch]) -> list[dict[str, Any]]:
    return [row for batch in batches for row in batch.rows.to_pylist()]


def extras_of(batches: list[LogBatch]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if v is not None} for batch in batches for row in batch.extra.to_pylist()]


CELL = st.one_of(
    st.none(),
    st.text(max_size=12),
    st.sampled_from(["<think>a</think>b", "2024-01-02", "\x00", "a\u2028b", '"', "null", "1"]),
)
SCALAR = st.one_of(CELL, st.integers(-(2**40), 2**40), st.booleans(), st.floats(-1e6, 1e6))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "prompt": CELL,
                "response": CELL,
                "finish_reason": CELL,
                "error": CELL,
                "time": SCALAR,
                "id": SCALAR,
                "score": SCALAR,
                "reasoning": CELL,
            }
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_plain_rows_read_alike_fast_and_carefully(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    rows = [{"prompt": "q", "response": "a"}, *rows]
    path = write_jsonl(tmp_path / "h.jsonl", rows)
    quick_bad: list[str] = []
    slow_bad: list[str] = []
    quick = list(read_log_batches([path], skip_bad=True, on_bad=lambda e: quick_bad.append(str(e))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lines_module, "_through_arrow", lambda *_: None)
        slow = list(read_log_batches([path], skip_bad=True, on_bad=lambda e: slow_bad.append(str(e))))
    assert rows_of(quick) == rows_of(slow)
    assert extras_of(quick) == extras_of(slow)
    assert quick_bad == slow_bad


def test_the_fast_way_is_taken_for_plain_rows(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("read line by line")

    monkeypatch.setattr(json_lines_module, "lines_of", never)
    shard = list_shards([files["parquet"]])[0]
    assert shard.format == "plain"
    assert len(rows_of(list(read_shard(list_shards([files["csv"]])[0])))) == 50


def test_pieces_give_what_the_whole_gives(files: dict[str, Path]) -> None:
    for name in ("jsonl", "parquet"):
        whole = read(files[name])
        for size in (1, 700, 3000, 10**9):
            shards = list_shards([files[name]], shard_bytes=size)
            found = [row for shard in shards for row in rows_of(list(read_shard(shard)))]
            assert found == whole, (name, size)
        assert len(list_shards([files[name]], shard_bytes=700)) > 3
        assert len(list_shards([files[name]], shard_bytes=None)) == 1


def test_pieces_are_the_same_every_time_and_can_be_sent_to_another_process(files: dict[str, Path]) -> None:
    paths = [files["jsonl"], files["parquet"], files["csv.gz"]]
    shards = list_shards(paths, shard_bytes=700)
    assert shards == list_shards(paths, shard_bytes=700)
    assert len({shard.id for shard in shards}) == len(shards)
    sent = pickle.loads(pickle.dumps(shards))
    assert sent == shards
    assert sum(shard.n_rows or 0 for shard in shards if shard.kind == "parquet") == 50


def test_a_changed_file_has_other_pieces(files: dict[str, Path]) -> None:
    before = list_shards([files["jsonl"]])[0].id
    write_jsonl(files["jsonl"], [*ROWS, ROWS[0]])
    assert list_shards([files["jsonl"]])[0].id != before


def test_a_piece_read_twice_gives_the_same_batches(files: dict[str, Path]) -> None:
    for shard in list_shards(list(files.values()), shard_bytes=700):
        assert rows_of(list(read_shard(shard))) == rows_of(list(read_shard(shard)))


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", ".hidden.jsonl", "_tmp.jsonl", "readme.md"):
        write_jsonl(tmp_path / name, [{"prompt": "q", "response": name}])
    assert [row["response"] for row in read(tmp_path)] == ["a.jsonl", "b.jsonl"]


def test_batch_results_find_their_prompts_in_the_request_file(tmp_path: Path) -> None:
    asked = [
        {
            "custom_id": f"r{i}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "m", "messages": [{"role": "user", "content": f"Question {i}"}]},
        }
        for i in range(3)
    ]
    body = {
        "object": "chat.completion",
        "model": "m",
        "choices": [{"message": {"role": "assistant", "content": "Fine."}, "finish_reason": "stop"}],
    }
    answered = [
        {"id": f"b{i}", "custom_id": f"r{i}", "response": {"status_code": 200, "body": body}, "error": None}
        for i in (2, 0)
    ]
    requests = write_jsonl(tmp_path / "input.jsonl", asked)
    results = write_jsonl(tmp_path / "output.jsonl", answered)
    found = read([requests, results])
    assert [(row["id"], row["prompt"], row["response"]) for row in found] == [
        ("r2", "Question 2", "Fine."),
        ("r0", "Question 0", "Fine."),
    ]
    with pytest.raises(BadInputError, match="requests only; give its result file as well"):
        list_shards([requests])


def test_records_of_different_providers_in_one_file_are_each_read_their_way(tmp_path: Path) -> None:
    rows: list[Any] = [
        {
            "request": {"messages": [{"role": "user", "content": "q1"}]},
            "response": {"model": "o", "choices": [{"message": {"content": "a1"}, "finish_reason": "stop"}]},
        },
        {"type": "message", "role": "assistant", "model": "c", "content": [], "stop_reason": "refusal", "region": "eu"},
        {"prompt": "q3", "response": "a3"},
        [{"role": "user", "content": "q4"}, {"role": "assistant", "content": "a4"}],
    ]
    found = read(write_jsonl(tmp_path / "mixed.jsonl", rows))
    assert [(r["prompt"], r["response"], r["origin"]) for r in found] == [
        ("q1", "a1", ""),
        ("", "", "provider_filter"),
        ("q3", "a3", ""),
        ("q4", "a4", ""),
    ]


def test_nested_records_keep_their_own_fields_as_json(tmp_path: Path) -> None:
    rows = [
        {
            "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
            "score": 3,
            "tags": ["x"],
        }
        for _ in range(3)
    ]
    rows.extend({**rows[0], "late": {"n": 1}} for _ in range(200))
    rows.insert(0, rows.pop())
    batch = next(iter(read_log_batches([write_jsonl(tmp_path / "n.jsonl", rows)])))
    kept = batch.extra.to_pylist()[0]
    assert (kept["score"], kept["tags"], json.loads(kept["late"])) == ("3", '["x"]', {"n": 1})


def test_a_field_that_comes_late_is_kept_in_other_fields(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "response": "a"} for _ in range(300)]
    rows[-1]["late"] = "x"
    batches = list(read_log_batches([write_jsonl(tmp_path / "l.jsonl", rows)]))
    others = [row["other_fields"] for batch in batches for row in batch.extra.to_pylist()]
    assert others == [None] * 299 + ['{"late": "x"}']


def test_nested_parquet_is_read_as_records_and_keeps_its_columns(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    table = pa.Table.from_pylist([{"messages": turns, "n": i} for i in range(20)])
    path = tmp_path / "chat.parquet"
    parquet.write_table(table, path, row_group_size=6)
    batches = list(read_log_batches([path], batch_rows=4))
    assert {(r["prompt"], r["response"]) for r in rows_of(batches)} == {("q", "a")}
    assert pa.Table.from_batches([b.extra for b in batches]).to_pylist() == table.to_pylist()


def test_replies_without_prompts_are_read_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from demur.data.logs import reading

    said: list[str] = []
    # Not caplog: an engine that other tests run sets up logging anew.
    monkeypatch.setattr(reading._LOG, "warning", lambda message, *args: said.append(message % args))
    found = read(write_jsonl(tmp_path / "r.jsonl", [{"response": "a"}]))
    assert (found[0]["prompt"], found[0]["response"]) == ("", "a")
    assert "no column with prompts" in " ".join(said)


def test_every_format_and_column_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "log-formats.md").read_text(encoding="utf-8")
    assert [name for name in FORMATS if f"| `{name}` |" not in text] == []
    assert ", ".join(LOG_COLUMNS) in text
    assert [name for name in ROLES if f"| `{name}` |" not in text] == []


def test_files_that_polars_writes_are_read_like_any_other(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    nested = polars.DataFrame({"messages": [turns, turns]})
    coded = polars.DataFrame({"prompt": ["q", "q"], "response": ["a", "a"]}).with_columns(
        polars.col("response").cast(polars.Categorical)
    )
    for number, frame in enumerate((nested, coded)):
        frame.write_parquet(tmp_path / f"{number}.parquet")
        frame.write_ipc(tmp_path / f"{number}.arrow")
        frame.write_ipc_stream(tmp_path / f"{number}s.arrow")
    found = read(tmp_path)
    assert [(row["prompt"], row["response"]) for row in found] == [("q", "a")] * 12


def test_named_columns_are_read_and_a_missing_one_names_the_nearest(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", [{"frage": "q", "antwort": "a"}])
    found = read(path, columns={"prompt": "frage", "response": "antwort"})
    assert (found[0]["prompt"], found[0]["response"]) == ("q", "a")
    with pytest.raises(BadInputError, match=r"c\.jsonl:1:antwrt: expected a column 'antwrt'.*did you mean 'antwort'"):
        read(path, columns={"response": "antwrt"})
    with pytest.raises(BadInputError, match=r"c\.jsonl:1:response: expected a column 'response', got frage, antwort"):
        read(path)


def test_a_misspelt_response_column_is_named_in_every_kind_of_file(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "respnse": "a"}]
    for path in (write_jsonl(tmp_path / "m.jsonl", rows), write_csv(tmp_path / "m.csv", rows)):
        with pytest.raises(BadInputError, match="did you mean 'respnse'"):
            list_shards([path])
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    with pytest.raises(BadInputError, match="did you mean 'respnse'"):
        list_shards([tmp_path / "m.parquet"])


def test_exchanges_of_a_batch_are_named_by_their_place_and_keep_the_signal(files: dict[str, Path]) -> None:
    batch = next(iter(read_log_batches([files["jsonl"]])))
    found = batch.exchanges()
    assert found[0].id == f"{files['jsonl']}:1"
    assert found[0].api_signals[0].kind == "content_filter"
    assert found[0].api_signals[0].origin == "provider_filter"
    assert found[1].prompt == ROWS[1]["prompt"]


def sample(number: int, text: str) -> dict[str, Any]:
    return {
        "id": f"s{number}",
        "epoch": 1,
        "input": [{"role": "user", "content": "attachment://h"}],
        "target": "comply",
        "output": {
            "model": "",
            "choices": [{"message": {"role": "assistant", "content": text}, "stop_reason": "stop"}],
        },
        "attachments": {"h": "Hello?"},
        "events": [{"big": "x" * 1000}],
    }


HEAD = {
    "version": 2,
    "status": "success",
    "eval": {"model": "m/x", "task": "t", "created": "2025-01-01T00:00:00+00:00"},
}


def eval_log(path: Path, samples: list[bytes], method: int) -> Path:
    """An archive as Inspect writes it; method 93 (zstd) is written by hand, which zipfile cannot do before 3.14."""
    stored = zipfile.ZIP_STORED if method == 93 else method
    with zipfile.ZipFile(path, "w", stored) as archive:
        members = [
            ("header.json", json.dumps(HEAD).encode()),
            *((f"samples/s{i}_epoch_1.json", s) for i, s in enumerate(samples)),
        ]
        for name, data in members:
            archive.writestr(name, zstandard.compress(data) if method == 93 else data)
    if method == 93:
        mark_as_zstd(path)
    return path


def mark_as_zstd(path: Path) -> None:
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        places = [member.header_offset + 8 for member in archive.infolist()]
        start = archive.start_dir
    at = start
    while data[at : at + 4] == b"PK\x01\x02":
        places.append(at + 10)
        at += 46 + sum(int.from_bytes(data[at + k : at + k + 2], "little") for k in (28, 30, 32))
    for place in places:
        data[place : place + 2] = (93).to_bytes(2, "little")
    path.write_bytes(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, 93])
def test_an_inspect_archive_is_read_without_inspect(tmp_path: Path, method: int) -> None:
    texts = [json.dumps(sample(i, f"Answer {i}")).encode() for i in range(5)]
    found = list(read_log_batches([eval_log(tmp_path / "log.eval", texts, method)]))
    rows = rows_of(found)
    assert [row["response"] for row in rows] == [f"Answer {i}" for i in range(5)]
    assert {(row["prompt"], row["model"]) for row in rows} == {("Hello?", "m/x")}
    assert rows[0]["time"].isoformat() == "2025-01-01T00:00:00+00:00"
    assert found[0].extra.to_pylist()[0]["task"] == "t"
    assert "events" not in found[0].extra.schema.names


def test_an_inspect_json_log_gives_what_the_archive_gives(tmp_path: Path) -> None:
    samples = [sample(i, f"Answer {i}") for i in range(3)]
    path = tmp_path / "log.json"
    path.write_text(json.dumps({**HEAD, "samples": samples}), encoding="utf-8")
    archive = eval_log(tmp_path / "log.eval", [json.dumps(s).encode() for s in samples], zipfile.ZIP_DEFLATED)
    assert without_place(read(path)) == without_place(read(archive))


def test_a_broken_sample_of_an_archive_is_named_and_skipped(tmp_path: Path) -> None:
    good = json.dumps(sample(0, "Answer")).encode()
    path = eval_log(tmp_path / "log.eval", [good, b"{broken", good], zipfile.ZIP_DEFLATED)
    with pytest.raises(BadInputError, match=r"log\.eval:2: expected a sample"):
        read(path)
    bad: list[BadInputError] = []
    assert len(read(path, skip_bad=True, on_bad=bad.append)) == 2
    assert len(bad) == 1


def test_one_pretty_printed_record_is_one_row(tmp_path: Path) -> None:
    body = {
        "object": "chat.completion",
        "model": "m",
        "choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}],
    }
    path = tmp_path / "one.json"
    path.write_text(json.dumps(body, indent=2), encoding="utf-8")
    assert [row["response"] for row in read(path)] == ["Hi"]


def test_a_row_and_its_record_are_the_same_exchange(tmp_path: Path) -> None:
    record = {"prompt": "q", "response": "<think>t</think>a", "finish_reason": "length", "model": "m"}
    row = read(write_jsonl(tmp_path / "r.jsonl", [record]))[0]
    alone = exchange_from_record(record)
    assert (row["prompt"], row["response"], row["reasoning"], row["stop_reason"], row["model"]) == (
        alone.prompt,
        alone.response,
        alone.reasoning,
        alone.stop_reason,
        alone.model,
    )

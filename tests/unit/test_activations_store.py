"""Recordings on disk: killed and continued, memory-mapped, never mixed up."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.decoders import largest_difference, random_prompts, tiny_decoder

from demur.activations.record import RecordOptions, record
from demur.activations.store import open_store, prompts_hash, record_to, reserve
from demur.core.errors import BadInputError

SITES = ("resid", "head_out")


class _KilledError(Exception):
    pass


def killed_after(n):
    def progress(done, _total):
        if done >= n:
            raise _KilledError

    return RecordOptions(progress=progress, chunk_rows=4)


def test_a_recording_on_disk_is_the_one_in_memory(tmp_path):
    subject, prompts = tiny_decoder("Llama"), random_prompts(10)
    found = record_to(tmp_path / "s", subject, prompts, sites=SITES, layers=[0, 2], options=RecordOptions(chunk_rows=4))
    expected = record(subject, prompts, sites=SITES, layers=[0, 2])
    assert isinstance(found.values, np.memmap)
    assert (found.layers, found.spans, found.model) == (expected.layers, expected.spans, expected.model)
    for site in SITES:
        assert largest_difference(found.of(site).values, expected.of(site).values) < 1e-5
    with pytest.raises(ValueError, match="read-only"):
        found.values[0] = 0


def test_a_killed_recording_goes_on_where_it_stopped(tmp_path):
    subject, prompts = tiny_decoder("Llama"), random_prompts(10)
    with pytest.raises(_KilledError):
        record_to(tmp_path / "s", subject, prompts, options=killed_after(8))
    with pytest.raises(BadInputError, match="8 of 10 prompts are recorded; run the recording again"):
        open_store(tmp_path / "s")
    seen = []
    again = RecordOptions(progress=lambda done, total: seen.append((done, total)), chunk_rows=4)
    found = record_to(tmp_path / "s", subject, prompts, options=again)
    assert seen == [(10, 10)]
    assert largest_difference(found.values, record(subject, prompts).values) < 1e-5


def test_another_recording_is_not_written_over(tmp_path):
    subject, prompts = tiny_decoder("Llama"), random_prompts(5)
    record_to(tmp_path / "s", subject, prompts)
    with pytest.raises(BadInputError, match=r"holds another recording \(prompts: '\w{8}', now '\w{8}'\)"):
        record_to(tmp_path / "s", subject, prompts[::-1])
    with pytest.raises(BadInputError, match="holds another recording"):
        record_to(tmp_path / "s", subject, prompts, layers=[1])
    with pytest.raises(BadInputError, match="recorded on Llama, the model here is Phi"):
        open_store(tmp_path / "s", for_model="Phi")


def test_what_is_no_store_says_what_was_expected(tmp_path):
    with pytest.raises(BadInputError, match=r"expected a folder of recorded states with activations.json"):
        open_store(tmp_path)
    record_to(tmp_path / "s", tiny_decoder("Llama"), random_prompts(5))
    (tmp_path / "s" / "resid.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(BadInputError, match=r"resid.npy: expected recorded states"):
        open_store(tmp_path / "s")
    path = tmp_path / "s" / "activations.json"
    text = path.read_text()
    path.write_text(json.dumps({**json.loads(text), "convention": "after the block"}))
    with pytest.raises(BadInputError, match="convention: expected"):
        open_store(tmp_path / "s")
    path.write_text(text.replace('"n":', '"m":'))
    with pytest.raises(BadInputError, match=r"activations.json: n: Field required"):
        open_store(tmp_path / "s")


def test_a_full_disk_is_a_message(tmp_path):
    with pytest.raises(BadInputError, match=r"cannot reserve [\d.]+ GB: .*; free space"):
        reserve(tmp_path / "resid.npy", (1 << 40, 31, 576))
    assert list(tmp_path.iterdir()) == []


def test_the_hash_tells_prompts_positions_and_order_apart():
    prompts = random_prompts(3)
    hashes = {
        prompts_hash(prompts),
        prompts_hash(prompts[::-1]),
        prompts_hash(prompts[:2]),
        prompts_hash(prompts, ("t_inst",)),
        prompts_hash(prompts, ("t_post[-1]",)),
    }
    assert len(hashes) == 5
    assert prompts_hash(prompts) == prompts_hash(list(prompts))

from concurrent.futures import ThreadPoolExecutor

from demur.data.folder import write_bytes


def test_threads_may_write_the_same_file_at_once(tmp_path):
    path = tmp_path / "deep" / "same.bin"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: write_bytes(path, bytes([i]) * 100_000), range(64)))
    assert len(set(path.read_bytes())) == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["same.bin"]

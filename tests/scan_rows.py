"""Log batches for the scan's tests."""

import pyarrow as pa

from demur.data.logs import LogBatch

REFUSAL = "I'm sorry, but I can't help with that."
ANSWER = "Bridges carry loads by bending, by pushing or by pulling; most old stone ones push."


def batch_of(responses, *, times=None, models=None, extra=None, first=1, origin="", signal=""):
    n = len(responses)
    times = times or [None] * n
    rows = {
        "id": [str(i) for i in range(n)],
        "prompt": ["How do bridges stand?"] * n,
        "response": responses,
        "reasoning": [""] * n,
        "model": models or ["m"] * n,
        "stop_reason": ["stop"] * n,
        "signal": [signal] * n,
        "origin": [origin] * n,
        "time": pa.array(times, pa.timestamp("us", "UTC")),
        "source_file": ["log.jsonl"] * n,
        "line": pa.array(range(first, first + n), pa.int64()),
    }
    return LogBatch(pa.RecordBatch.from_pydict(rows), pa.RecordBatch.from_pydict(extra or {"response": responses}))

"""What is known of a row only by reading it: its language and, where a predictor is fitted, the kind of request."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from demur.judges.foreign import language_of

if TYPE_CHECKING:
    from demur.data.logs import LogBatch

_N_CHARS = 300
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def asked(batch: LogBatch, rows: NDArray[Any]) -> dict[str, list[str]]:
    """Language, and category if there is a predictor, of some rows of a batch."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not len(rows):
        return {}
    heads = pc.utf8_slice_codeunits(batch.rows["response"].take(pa.array(rows)), 0, _N_CHARS)
    found = {"language": [language(head) for head in heads.to_pylist()]}
    categories = category_of(batch.rows["prompt"].take(pa.array(rows)).to_pylist())
    if categories is not None:
        found["category"] = list(categories)
    return found


def language(text: str) -> str:
    """ISO code of a reply's language, or why there is none."""
    if not text:
        return "(no text)"
    found = language_of(_WORD.findall(text.casefold()), text)
    return "(another)" if found == "other" else found or "(too short to say)"


def category_of(prompts: Sequence[str]) -> Sequence[str] | None:
    """Category of each prompt by `demur.classify.predict_categories`; None as long as there is none."""
    import demur.classify

    predict: Callable[[Sequence[str]], Sequence[str]] | None = getattr(demur.classify, "predict_categories", None)
    return predict(prompts) if predict is not None else None

"""Perplexity of ordinary prose: how surprised a model is by text that nobody answered for it.

Texts stand alone, outside any chat template. The first token is read and not predicted, since models differ in what
they put before a text; where a tokenizer begins every text with a token of its own, that one is it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from demur.ability.memory import AbilityMemory
from demur.ability.result import ProseResult, ReadText
from demur.models.answer_logprobs import TokenReader
from demur.suites.ability import ProseItem

Progress = Callable[[int, int], None]
# Every position has logits over the whole vocabulary: this bounds their memory.
TOKENS_AT_ONCE = {"cpu": 512, "cuda": 8_192}


def read_prose(
    items: Sequence[ProseItem], reader: Callable[[], TokenReader], memory: AbilityMemory, progress: Progress
) -> ProseResult:
    """Read all texts.

    Args:
        items: The texts; one longer than the model's context is read in pieces of that length.
        reader: Makes the model; called only if something is left to read.
        memory: What was read before.
        progress: Called with (texts done, texts).
    """
    keys = [memory.key("prose", item.text) for item in items]
    left = [i for i, key in enumerate(keys) if memory.get(key) is None]
    done = len(items) - len(left)
    if left:
        made = reader()
        for number, nats, tokens, n_bytes in _read(made, [items[i].text for i in left]):
            memory.add(keys[left[number]], [nats, tokens, n_bytes])
            done += 1
            progress(done, len(items))
    return prose_result(
        [
            ReadText(id=item.id, nats=float(nats), tokens=int(tokens), bytes=int(n_bytes))
            for item, (nats, tokens, n_bytes) in (
                (item, memory.get(key)) for item, key in zip(items, keys, strict=True)
            )
        ]
    )


def prose_result(texts: Sequence[ReadText]) -> ProseResult:
    """Sums over texts; a text of a single token has nothing to predict."""
    kept = tuple(text for text in texts if text.tokens)
    return ProseResult(
        nats=sum(t.nats for t in kept), tokens=sum(t.tokens for t in kept), bytes=sum(t.bytes for t in kept), texts=kept
    )


def _read(reader: TokenReader, texts: Sequence[str]) -> Iterator[tuple[int, float, int, int]]:
    """Number of a text, its nats, predicted tokens and the bytes these spell; longest texts first."""
    encoded = [_encoded(reader, text) for text in texts]
    pieces = [(number, piece) for number, (ids, _) in enumerate(encoded) for piece in _pieces(ids, reader.limit)]
    left = [sum(number == i for number, _ in pieces) for i in range(len(texts))]
    nats, tokens = [0.0] * len(texts), [0] * len(texts)
    yield from ((i, 0.0, 0, 0) for i, n in enumerate(left) if n == 0)
    for batch in _batches(pieces, TOKENS_AT_ONCE.get(reader.model.device.type, TOKENS_AT_ONCE["cuda"])):
        for (number, piece), total in zip(batch, _nats(reader.model, [ids for _, ids in batch]), strict=True):
            nats[number] += total
            tokens[number] += len(piece) - 1
            left[number] -= 1
            if not left[number]:
                yield number, nats[number], tokens[number], encoded[number][1]


def _encoded(reader: TokenReader, text: str) -> tuple[list[int], int]:
    """Token ids, with what the tokenizer puts in front, and the bytes of all but the first."""
    safe = reader.safe(text)
    plain, tokenizer = reader.ids(safe), reader.tokenizer
    whole = len(safe.encode("utf-8", "replace"))
    with_specials = list(tokenizer(safe)["input_ids"])
    if with_specials[: len(plain) + 1][1:] == plain and with_specials[0] in tokenizer.all_special_ids:
        return with_specials[: len(plain) + 1], whole
    first = tokenizer.decode(plain[:1], clean_up_tokenization_spaces=False)
    return plain, max(0, whole - len(first.encode("utf-8", "replace")))


def _pieces(ids: Sequence[int], limit: int) -> list[Sequence[int]]:
    """Stretches of at most `limit` tokens; each begins with the last token of the one before, so that all count."""
    step = max(1, limit - 1)
    return [ids[start : start + step + 1] for start in range(0, len(ids) - 1, step)]


def _batches(pieces: Sequence[tuple[int, Sequence[int]]], most: int) -> Iterator[list[tuple[int, Sequence[int]]]]:
    batch: list[tuple[int, Sequence[int]]] = []
    for piece in sorted(pieces, key=lambda p: len(p[1]), reverse=True):
        if batch and (len(batch) + 1) * len(batch[0][1]) > most:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def _nats(model: Any, rows: Sequence[Sequence[int]]) -> list[float]:
    """Summed negative log-probability of each row after its first token."""
    import torch
    import torch.nn.functional as F

    width = max(map(len, rows))
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    seen = torch.zeros((len(rows), width), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(list(row))
        seen[number, : len(row)] = 1
    ids, seen = ids.to(model.device), seen.to(model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=seen, use_cache=False).logits[:, :-1].float()
        losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(rows), -1)
        return [float(value) for value in (losses * seen[:, 1:]).sum(dim=1).double()]

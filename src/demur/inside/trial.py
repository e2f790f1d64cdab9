"""A model put through interventions: next-token logits and replies, untouched or with a direction added or removed."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from demur.activations.direction import Direction
from demur.activations.spans import PromptTokens
from demur.activations.subject import Subject
from demur.inside.phrases import refusal_metric
from demur.steer.hooks import AblateDirection, Intervention, raw_addition, steered

BATCH_ROWS = 16
Floats = NDArray[np.float64]


class InterventionTrial:
    """The selection prompts of one model, and what interventions do to its next token.

    Args:
        subject: The model.
        harmful: Tokenized harmful prompts that it refuses.
        harmless: Tokenized harmless prompts that it answers.
        metric_ids: First tokens that announce a refusal.
    """

    def __init__(
        self,
        subject: Subject,
        harmful: Sequence[PromptTokens],
        harmless: Sequence[PromptTokens],
        metric_ids: Sequence[int],
    ) -> None:
        self.subject, self.harmful, self.harmless = subject, list(harmful), list(harmless)
        self.metric_ids = tuple(metric_ids)
        self.untouched = next_logits(subject, self.harmless)

    def bypass(self, direction: Direction, n: int, /) -> Floats:
        """Refusal metric of harmful prompts with the direction projected out everywhere; (n,)."""
        logits = next_logits(self.subject, self.harmful[:n], [AblateDirection(direction)])
        return refusal_metric(logits, self.metric_ids)

    def induce(self, direction: Direction, n: int, /) -> Floats:
        """Refusal metric of harmless prompts with the raw direction added at its own layer; (n,)."""
        logits = next_logits(self.subject, self.harmless[:n], [raw_addition(direction)])
        return refusal_metric(logits, self.metric_ids)

    def divergence(self, direction: Direction, n: int, /) -> Floats:
        """KL(untouched || projected out) of the next token on harmless prompts; (n,)."""
        logits = next_logits(self.subject, self.harmless[:n], [AblateDirection(direction)])
        return divergence(self.untouched[:n], logits)


def divergence(before: NDArray[np.floating], after: NDArray[np.floating]) -> Floats:
    """KL divergence in nats of next-token distributions, from logits (n, vocabulary); (n,), 0 for equal ones."""
    p, q = _log_softmax(before), _log_softmax(after)
    return np.asarray(np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0))


def next_logits(
    subject: Subject, prompts: Sequence[PromptTokens], interventions: Sequence[Intervention] = ()
) -> NDArray[np.float32]:
    """Logits of the token after each prompt, under interventions; (n, vocabulary)."""
    found: NDArray[np.float32] | None = None
    keep = _keeps_last(subject.model)
    with torch.inference_mode(), steered(subject, list(interventions)):
        for rows in _batches(prompts):
            given = left_padded(subject, [prompts[i].ids for i in rows])
            logits = subject.model(**given, use_cache=False, **keep).logits[:, -1].float().cpu().numpy()
            if found is None:
                found = np.empty((len(prompts), logits.shape[1]), dtype=np.float32)
            found[rows] = logits
    return found if found is not None else np.empty((0, 1), dtype=np.float32)


def written(
    subject: Subject,
    prompts: Sequence[PromptTokens],
    interventions: Sequence[Intervention] = (),
    *,
    max_tokens: int = 40,
) -> list[str]:
    """Greedy replies under interventions, without special tokens, in order."""
    tokenizer, texts = subject.tokenizer, [""] * len(prompts)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    with torch.inference_mode(), steered(subject, list(interventions)):
        for rows in _batches(prompts):
            given = left_padded(subject, [prompts[i].ids for i in rows], pad=pad)
            width = given["input_ids"].shape[1]
            given.pop("position_ids", None)
            output = subject.model.generate(
                **given,
                max_new_tokens=max_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=pad,
            )
            for i, ids in zip(rows, output[:, width:].tolist(), strict=True):
                texts[i] = tokenizer.decode(ids, skip_special_tokens=True).strip()
    return texts


def left_padded(subject: Subject, rows: Sequence[Sequence[int]], *, pad: int = 0) -> dict[str, Any]:
    """A batch that ends where every prompt ends; the mask, never the ids, says what is padding."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = 1
    given = {"input_ids": ids, "attention_mask": mask}
    if "position_ids" in inspect.signature(subject.model.forward).parameters:
        given["position_ids"] = (mask.cumsum(-1) - 1).clamp_min(0)
    return {name: value.to(subject.device) for name, value in given.items()}


def _batches(prompts: Sequence[PromptTokens]) -> Iterator[list[int]]:
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids), reverse=True)
    for start in range(0, len(order), BATCH_ROWS):
        yield order[start : start + BATCH_ROWS]


def _keeps_last(model: Any) -> dict[str, int]:
    """The option that spares the vocabulary at all positions but the last, where the model knows it."""
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}


def _log_softmax(logits: NDArray[np.floating]) -> Floats:
    rows = np.asarray(logits, dtype=np.float64)
    rows = rows - rows.max(axis=1, keepdims=True)
    return np.asarray(rows - np.log(np.exp(rows).sum(axis=1, keepdims=True)))

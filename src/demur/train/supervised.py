"""Ordinary replies and replies after a control token, as labelled rows."""

from collections.abc import Sequence

from demur.core.errors import BadInputError
from demur.train.rows import IGNORED, Encoder, Example, LabelledRow


def supervised_row(encoder: Encoder, example: Example) -> LabelledRow:
    """A row whose loss is on the assistant's turn only, its end included; a reply that must be cut does not end.

    Raises:
        BadInputError: The prompt leaves no room, or there is no reply to learn.
    """
    prompt = encoder.prompt(example.prompt, system=example.system, origin=example.id)
    reply = ended(encoder, encoder.reply(example.response), room=encoder.max_tokens - len(prompt), origin=example.id)
    return after(prompt, reply, example.weight, example.kind)


def control_row(
    encoder: Encoder, example: Example, control: int, *, weights: tuple[float, float] = (1.0, 1.0)
) -> LabelledRow:
    """A row that learns a control token after the prompt and the reply after that; no reply = the token only.

    Args:
        encoder: Of a tokenizer that knows the control tokens.
        example: Prompt and reply.
        control: Id of its control token.
        weights: Of the control token and of each token of the reply; the published recipe gives both 1.
            `control_weights` gives the decision its own weight beside the replies' mean.

    Source:
        Jain et al. (2024), "Refusal Tokens"; method sheet, section 2.2.
    """
    prompt = encoder.prompt(example.prompt, system=example.system, origin=example.id)
    room = encoder.max_tokens - len(prompt) - 1
    reply = ended(encoder, encoder.reply(example.response), room=room) if example.response and room > 0 else ()
    row = after(prompt, (control, *reply), example.weight, example.kind)
    scaled = (weights[0] * example.weight, *(weights[1] * example.weight for _ in reply))
    return LabelledRow(row.ids, row.labels, (*row.weights[: len(prompt)], *scaled), row.kind)


def control_weights(n_decisions: int, n_reply_tokens: int, decision_weight: float) -> tuple[float, float]:
    """Weights with which the mean over 'tokens' is decision_weight * the decisions' mean + the replies' mean.

    Args:
        n_decisions: Rows that are learnt together.
        n_reply_tokens: Their learnt tokens after the control token.
        decision_weight: Weight of the decisions' mean beside the replies' mean.
    """
    n = n_decisions + n_reply_tokens
    return decision_weight * n / n_decisions, n / n_reply_tokens if n_reply_tokens else 0.0


def ended(encoder: Encoder, reply: Sequence[int], *, room: int, origin: str = "") -> tuple[int, ...]:
    """A reply with its end token, cut to the room there is; cut, it is not shown to end there.

    Raises:
        BadInputError: There is nothing to learn.
    """
    if not reply:
        raise BadInputError(f"{origin or 'example'}: expected a reply to learn, got an empty one; leave the row out")
    return (*reply, encoder.end) if len(reply) < room else tuple(reply[:room])


def after(context: Sequence[int], learnt: Sequence[int], weight: float, kind: str) -> LabelledRow:
    """A row that learns to say something after a context of which nothing is learnt."""
    return LabelledRow(
        ids=(*context, *learnt),
        labels=(*([IGNORED] * len(context)), *learnt),
        weights=(*([0.0] * len(context)), *([weight] * len(learnt))),
        kind=kind,
    )

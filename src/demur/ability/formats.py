"""Instruction following by form: short greedy replies, checked for what was asked of their shape."""

from collections.abc import Callable, Mapping, Sequence

from demur.ability.forms import has_form
from demur.ability.memory import AbilityMemory
from demur.ability.result import CheckedReply, FormatResult
from demur.judges.degenerate import degeneration
from demur.judges.reading import read
from demur.stats.rates import share
from demur.suites.ability import CheckKind, FormCheck, InstructionItem

MAX_TOKENS = 112
# Tokens in which a form shows itself; what a reply does after them is not looked at.
_BUDGETS: dict[CheckKind, int] = {
    "starts_with": 24,
    "no_letter": 48,
    "lower_case": 48,
    "upper_case": 64,
    "one_sentence": 64,
    "json_object": 64,
}
# More text could still break these: a reply that the token limit ended has not shown that it keeps to them.
WHOLE_REPLY: frozenset[CheckKind] = frozenset(
    ("words_at_most", "words_between", "ends_with", "numbered_list", "bullets", "one_sentence", "n_paragraphs")
)
Progress = Callable[[int, int], None]
# Replies as (text, cut off), in order, to prompts with the most tokens of a reply.
Answer = Callable[[Sequence[tuple[str, int]], Progress], Sequence[tuple[str, bool]]]


def checked_replies(
    items: Sequence[InstructionItem], answer: Answer, memory: AbilityMemory, progress: Progress
) -> FormatResult:
    """Ask every instruction and check the replies.

    Args:
        items: The instructions.
        answer: Replies to prompts; called only with those not answered before.
        memory: What was answered before.
        progress: Called with (replies, instructions).
    """
    keys = {item.id: memory.key("formats", item.prompt, reply_tokens(item.check)) for item in items}
    left = [item for item in items if memory.get(keys[item.id]) is None]
    done = len(items) - len(left)
    if left:
        asked = [(item.prompt, reply_tokens(item.check)) for item in left]
        replies = answer(asked, lambda n, _: progress(done + n, len(items)))
        for item, (text, cut_off) in zip(left, replies, strict=True):
            memory.add(keys[item.id], [text, cut_off])
    return format_result(items, {item.id: memory.get(keys[item.id]) for item in items})


def reply_tokens(check: FormCheck) -> int:
    """Most tokens of a reply: as many as its form needs to show."""
    if check.kind in ("words_at_most", "words_between"):
        most = check.number or max((int(number) for number in check.texts), default=MAX_TOKENS)
        return min(MAX_TOKENS, 2 * most + 8)
    return _BUDGETS.get(check.kind, MAX_TOKENS)


def format_result(items: Sequence[InstructionItem], replies: Mapping[str, Sequence[object]]) -> FormatResult:
    """Rates from replies by item."""
    checked = [_checked(item, str(replies[item.id][0]), bool(replies[item.id][1])) for item in items]
    kinds = dict.fromkeys(reply.kind for reply in checked)
    rate = share(reply.passed for reply in checked)
    return FormatResult(
        rate=rate.model_copy(update={"degenerate": sum(reply.degenerate for reply in checked)}),
        by_kind={kind: share(reply.passed for reply in checked if reply.kind == kind) for kind in kinds},
        replies=tuple(checked),
    )


def _checked(item: InstructionItem, text: str, cut_off: bool) -> CheckedReply:
    broken = _is_degenerate(item, text)
    whole = not cut_off or item.check.kind not in WHOLE_REPLY
    return CheckedReply(
        id=item.id,
        kind=item.check.kind,
        passed=not broken and whole and has_form(item.check, text),
        degenerate=broken,
        cut_off=cut_off,
        reply=text,
    )


def _is_degenerate(item: InstructionItem, text: str) -> bool:
    # Some forms look odd on purpose: a reply without the letter e, or a bare JSON object, is not therefore broken.
    reason = degeneration(read(text), item.prompt)
    return reason is not None and reason != "mashed letters"

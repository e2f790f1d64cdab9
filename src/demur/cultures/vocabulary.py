"""How a language fares in a model's vocabulary: what is not in it, the model can hardly hold a view in."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from demur.core.culture import LANGUAGES, Language, LanguageNote, Statement

BYTES_TOLD, UNKNOWN_TOLD, LENGTH_TOLD = 0.05, 0.001, 2.0
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_REPLACEMENT = "\ufffd"


@dataclass(frozen=True, slots=True)
class Coverage:
    """How some texts are spelled in a vocabulary; shares of tokens."""

    tokens_per_character: float
    byte_share: float
    unknown_share: float


def coverage(texts: Sequence[str], tokenizer: Any) -> Coverage:
    """Spell texts in a tokenizer's vocabulary.

    A token counts as bytes where it stands for a byte or for part of a character: alone it is no text.
    """
    ids = [token for text in texts for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    kinds = {token: _kind(token, tokenizer) for token in set(ids)}
    n = max(1, len(ids))
    return Coverage(
        tokens_per_character=len(ids) / max(1, sum(map(len, texts))),
        byte_share=sum(kinds[token] == "byte" for token in ids) / n,
        unknown_share=sum(kinds[token] == "unknown" for token in ids) / n,
    )


def language_notes(
    statements: Sequence[Statement], mixed: frozenset[str], tokenizer: Any | None
) -> tuple[LanguageNote, ...]:
    """Vocabulary and scripts by language, with a complaint where a reader must know.

    Args:
        statements: What was asked about.
        mixed: Identifiers of statements with letters of another script.
        tokenizer: The model's; None where it cannot be had.
    """
    rows = {language: [row for row in statements if row.language == language] for language in LANGUAGES}
    spelled = {
        language: coverage([row.statement for row in found], tokenizer)
        for language, found in rows.items()
        if found and tokenizer is not None
    }
    english = spelled.get("en") or (coverage([row.english for row in statements], tokenizer) if spelled else None)
    return tuple(
        _note(language, found, mixed, spelled.get(language), english) for language, found in rows.items() if found
    )


def _note(
    language: Language,
    rows: Sequence[Statement],
    mixed: frozenset[str],
    spelled: Coverage | None,
    english: Coverage | None,
) -> LanguageNote:
    n_mixed = sum(row.id in mixed for row in rows)
    found = [text for told in _COMPLAINTS if spelled and english and (text := told(spelled, english))]
    if n_mixed:
        found.append(f"{n_mixed} statements hold letters of another script")
    return LanguageNote(
        language=language,
        n=len(rows),
        tokens_per_character=spelled.tokens_per_character if spelled else None,
        byte_share=spelled.byte_share if spelled else None,
        unknown_share=spelled.unknown_share if spelled else None,
        n_mixed_script=n_mixed,
        complaint="; ".join(found),
    )


def _unknown(spelled: Coverage, _: Coverage) -> str:
    if spelled.unknown_share <= UNKNOWN_TOLD:
        return ""
    return f"{spelled.unknown_share:.1%} of its tokens stand for what the vocabulary lacks: the model cannot read them"


def _bytes(spelled: Coverage, _: Coverage) -> str:
    if spelled.byte_share <= BYTES_TOLD:
        return ""
    return f"{spelled.byte_share:.0%} of its tokens are single bytes: its letters are not in the vocabulary"


def _length(spelled: Coverage, english: Coverage) -> str:
    ratio = spelled.tokens_per_character / max(1e-9, english.tokens_per_character)
    return f"it takes {ratio:.1f} times the tokens of English" if ratio >= LENGTH_TOLD else ""


_COMPLAINTS: tuple[Callable[[Coverage, Coverage], str], ...] = (_unknown, _bytes, _length)


def _kind(token: int, tokenizer: Any) -> str:
    if token == tokenizer.unk_token_id and token not in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        return "unknown"
    name = tokenizer.convert_ids_to_tokens(token)
    is_byte = _BYTE.fullmatch(str(name)) is not None or _REPLACEMENT in tokenizer.decode([token])
    return "byte" if is_byte else "text"

"""The model that an engine serves, as far as decisions depend on it: its control tokens and how a turn begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demur.core.errors import BadInputError
from demur.core.policy import SignalSource
from demur.models.adapter import read_adapter, read_control_tokens
from demur.serve.vllm_rows import ControlColumns

SIGNAL = "refusal-tokens"


@dataclass(frozen=True, slots=True)
class ServedTokens:
    """Control tokens of a served model.

    Attributes:
        source: Its signal, as policies name it.
        columns: Its control tokens.
        opening: Ids with which the template opens the assistant's turn; empty for templates that do not.
    """

    source: SignalSource
    columns: ControlColumns
    opening: tuple[int, ...]

    def trusts(self, prompt: Sequence[int] | None) -> bool:
        """Whether a prompt is one that decisions are defined on.

        It ends where the assistant's turn begins, so that no prefilled words come before the decision, and has no
        control token in it: only a template's caller or unsafe user text puts one there. Unknown prompts are not.
        """
        if prompt is None or not set(self.columns.ids).isdisjoint(prompt):
            return False
        return not self.opening or tuple(prompt[-len(self.opening) :]) == self.opening


def served_tokens(vllm_config: Any, folder: str = "") -> ServedTokens:
    """Control tokens of the model in vLLM's configuration.

    Args:
        vllm_config: vLLM's VllmConfig.
        folder: Where the record of control tokens lies; '' = the model's own folder.

    Raises:
        BadInputError: There is no record, its text does not follow the tokens, or it is for a larger vocabulary.
    """
    config = vllm_config.model_config
    where = Path(folder or str(config.model))
    record = read_control_tokens(where) if where.is_dir() else None
    if record is None:
        raise BadInputError(
            f"{where}: expected the folder of a model with control tokens, found no demur_tokens.json; make one with "
            "'demur export --merged', or name its folder in DEMUR_TOKENS"
        )
    if record.mode == "rows":
        raise BadInputError(
            f"{where}: in an adapter of mode 'rows' the text does not follow the control token, so an engine cannot "
            "word a refusal; put 'demur serve' in front of this engine, or train with --mode lora"
        )
    if max(record.ids) >= (size := int(config.get_vocab_size())):
        raise BadInputError(f"{where}: control token {max(record.ids)} lies beyond the served vocabulary of {size}")
    identity = record.identity or read_adapter(where).identity
    return ServedTokens(
        source=SignalSource(name=SIGNAL, identity=identity, token_ids=record.token_ids),
        columns=ControlColumns(record.categories, record.ids),
        opening=opening_of(where),
    )


def opening_of(folder: Path) -> tuple[int, ...]:
    """Ids that a folder's chat template adds to open the assistant's turn; empty if it adds none.

    Raises:
        BadInputError: The folder has no tokenizer with a chat template.
    """
    from demur.models.merging import load_tokenizer

    tokenizer = load_tokenizer(folder)
    turn = [{"role": "user", "content": "Hello"}]
    closed, opened = (
        tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=begun) for begun in (False, True)
    )
    added = opened[len(closed) :] if opened.startswith(closed) else ""
    return tuple(tokenizer(added, add_special_tokens=False)["input_ids"]) if added else ()

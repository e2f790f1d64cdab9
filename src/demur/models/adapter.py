"""Adapters of a base model: what an adapter's folder says, checked before anything is loaded.

A folder holds ordinary PEFT files, the tokenizer with the tokens it adds, if any, and `demur_tokens.json`. The same
record travels inside merged folders and GGUF files, so that controlled models stay controlled on their own.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from demur.core.errors import BadInputError, first_complaint
from demur.core.exchange import Frozen
from demur.core.identity import Identity
from demur.core.signal import RESPOND

TOKENS_FILE = "demur_tokens.json"
PEFT_CONFIG = "adapter_config.json"
PEFT_WEIGHTS = "adapter_model.safetensors"
Mode = Literal["rows", "lora", "plain"]
# Share of forced refusals that must decline before a model may word its own; below, a "refusal" would too often comply.
FOLLOWS_ENOUGH = 0.9


class ControlToken(Frozen):
    """One control token: its text and its id in the extended vocabulary."""

    text: Annotated[str, Field(min_length=2)]
    id: Annotated[int, Field(ge=0)]


class ControlTokens(BaseModel):
    """The record `demur_tokens.json`; fields that a later version adds are ignored.

    Attributes:
        format: Version of the record.
        mode: 'rows': only the tokens' rows were trained, the text follows none of them; 'lora': the text follows;
            'plain': an adapter without control tokens.
        style: Whose token texts these are.
        base: The base model, as typed for training.
        base_revision: Revision of the base; empty if unknown.
        tokens: Token of each category ('any' for one without categories), plus 'respond'; none where plain.
        identity: Identity of the signal, in files that no longer consist of base and adapter; else empty.
        follows: Measured share of forced refusal tokens whose text declines; None = never measured.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal[1]
    mode: Mode
    style: str = "demur"
    base: str
    base_revision: str = ""
    tokens: dict[str, ControlToken]
    identity: str = ""
    follows: Annotated[float, Field(ge=0.0, le=1.0)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mode == "plain":
            if self.tokens:
                raise ValueError(f"tokens: expected none in an adapter of mode 'plain', got {sorted(self.tokens)}")
            return self
        if RESPOND not in self.tokens or len(self.tokens) < 2:
            raise ValueError(f"tokens: expected {RESPOND!r} and at least one category, got {sorted(self.tokens)}")
        for what, values in (("ids", self.ids), ("texts", self.texts)):
            if len(set(values)) != len(values):
                raise ValueError(f"tokens: expected distinct {what}, got {values}")
        return self

    @property
    def categories(self) -> tuple[str, ...]:
        """Columns of the scores: every token but the respond token, in the record's order."""
        return tuple(name for name in self.tokens if name != RESPOND)

    @property
    def ids(self) -> tuple[int, ...]:
        """Token ids by column, the respond token last."""
        return tuple(self.tokens[name].id for name in self._columns)

    @property
    def texts(self) -> tuple[str, ...]:
        """Token texts by column, the respond token last."""
        return tuple(self.tokens[name].text for name in self._columns)

    @property
    def token_ids(self) -> dict[str, int]:
        """Ids by category, plus 'respond'."""
        return {name: self.tokens[name].id for name in self._columns}

    @property
    def _columns(self) -> tuple[str, ...]:
        return (*self.categories, RESPOND) if self.tokens else ()

    @property
    def text_follows(self) -> Literal["token", "nothing"]:
        """Whether the model's own words follow a forced token: trained to, and not measured to fail."""
        measured = self.follows is None or self.follows >= FOLLOWS_ENOUGH
        return "token" if self.mode == "lora" and measured else "nothing"


class Adapter(Frozen):
    """An adapter's folder, read and checked; weights are not loaded.

    Attributes:
        folder: Where it lies.
        control: Its control tokens.
        peft: Its PEFT configuration.
        hash: Eight hex digits over everything that can change a score.
    """

    folder: Path
    control: ControlTokens
    peft: Mapping[str, Any]
    hash: str

    @property
    def token_ids(self) -> dict[str, int]:
        """Ids by category, plus 'respond'."""
        return self.control.token_ids

    @property
    def mode(self) -> Mode:
        """What was trained: the tokens' rows only, or the trunk too."""
        return self.control.mode

    @property
    def identity(self) -> str:
        """Identity of its signal: base, revision and adapter."""
        return signal_identity(self.control.base, self.control.base_revision, self.hash)


def signal_identity(base: str, revision: str = "", adapter: str = "") -> str:
    """The identity string without its decoding part: how replies are drawn does not change a score."""
    return str(Identity(base=base, revision=revision, adapter=adapter)).partition("[")[0]


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter's folder.

    Raises:
        BadInputError: It is not there, incomplete, or malformed.
    """
    if not folder.is_dir():
        raise BadInputError(
            f"{folder}: expected an adapter's folder, found none; make one with 'demur train refusal-tokens'"
        )
    control = _record(folder)
    if control is None:
        raise BadInputError(f"{folder}: expected {TOKENS_FILE}; is this an adapter made by 'demur train'?")
    for name in (PEFT_CONFIG, PEFT_WEIGHTS):
        if not (folder / name).is_file():
            raise BadInputError(f"{folder}: expected {name}, found none; copy the whole folder of the adapter")
    return Adapter(folder=folder, control=control, peft=_json(folder / PEFT_CONFIG), hash=adapter_hash(folder))


def read_control_tokens(folder: Path) -> ControlTokens | None:
    """Control tokens of an adapter's or a merged model's folder; None if it has none.

    Raises:
        BadInputError: The record is malformed.
    """
    found = _record(folder)
    return None if found is None or found.mode == "plain" else found


def parse_control_tokens(record: Any, *, origin: str) -> ControlTokens:
    """Check a record of control tokens, wherever it was stored.

    Raises:
        BadInputError: It is malformed; the message names `origin` and the field.
    """
    try:
        return ControlTokens.model_validate(record)
    except ValidationError as error:
        raise BadInputError(f"{origin}: {first_complaint(error, whole='record')}; train the adapter again") from None


def adapter_hash(folder: Path) -> str:
    """Eight hex digits over the content of the configuration, the token record and the weights.

    Raises:
        BadInputError: A file is missing.
    """
    digest = sha256()
    record = _json(folder / TOKENS_FILE)
    kept = {name: value for name, value in record.items() if name != "follows"}  # changes no score
    digest.update(json.dumps(kept, sort_keys=True).encode())
    for name in (PEFT_CONFIG, PEFT_WEIGHTS):
        try:
            with (folder / name).open("rb") as file:
                digest.update(f"{name}:{(folder / name).stat().st_size}:".encode())
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError:
            raise BadInputError(f"{folder}: expected {name}, found none; copy the whole folder") from None
    return digest.hexdigest()[:8]


def check_tokenizer(control: ControlTokens, tokenizer: Any, *, origin: str) -> None:
    """Make sure that every control token is one id, the recorded one, in a loaded transformers tokenizer.

    Raises:
        BadInputError: One is not.
    """
    for name, token in control.tokens.items():
        ids = tokenizer(token.text, add_special_tokens=False)["input_ids"]
        if list(ids) != [token.id]:
            raise BadInputError(
                f"{origin}: tokens.{name}: expected {token.text!r} to be the single id {token.id}, "
                f"the tokenizer makes it {list(ids)[:8]}; train the adapter again"
            )


def check_base(adapter: Adapter, base: str, revision: str) -> None:
    """Make sure that an adapter meets the base it was trained on.

    Args:
        adapter: The adapter.
        base: Base as typed now.
        revision: Its revision; empty if unknown.

    Raises:
        BadInputError: It is another base, or another revision of it.
    """
    known = adapter.control
    if revision and known.base_revision:
        if revision == known.base_revision:
            return
    elif base == known.base:
        return
    made_for = known.base + (f"@{known.base_revision}" if known.base_revision else "")
    raise BadInputError(
        f"{adapter.folder}: this adapter was trained on {made_for}, the base here is "
        f"{base}{'@' + revision if revision else ''}; use that base or train another adapter"
    )


def _record(folder: Path) -> ControlTokens | None:
    path = folder / TOKENS_FILE
    return parse_control_tokens(_json(path), origin=str(path)) if path.is_file() else None


def _json(path: Path) -> Any:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BadInputError(f"{path}: expected a JSON object; {reason}; train the adapter again") from None
    if not isinstance(found, dict):
        raise BadInputError(f"{path}: expected a JSON object, got {type(found).__name__}; train the adapter again")
    return found

"""The key-values of a GGUF file, read in a fraction of a second and without any library."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from demur.core.errors import BadInputError
from demur.models.adapter import ControlTokens, parse_control_tokens

CONTROL, USER_DEFINED = 3, 4  # kinds of token, of tokenizer.ggml.token_type
TOKENS_KEY = "demur.tokens"
# How most matrices are stored, of general.file_type; the numbers of other kinds stay numbers.
FILE_TYPES = {0: "f32", 1: "f16", 7: "q8_0"}
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
LONGEST_STRING = 1 << 26


@dataclass(frozen=True, slots=True, repr=False)
class GgufHeader:
    """What a GGUF file says about itself.

    Attributes:
        path: The file.
        values: Key-values; arrays as lists.
        kinds: GGUF's number for the type of each value, and for the elements of an array (else None).
    """

    path: Path
    values: Mapping[str, Any]
    kinds: Mapping[str, tuple[int, int | None]]

    @property
    def architecture(self) -> str:
        """E.g. 'llama'."""
        return str(self.values.get("general.architecture", ""))

    @property
    def chat_template(self) -> str:
        """Jinja source; empty if there is none."""
        return str(self.values.get("tokenizer.chat_template", ""))

    @property
    def control(self) -> ControlTokens | None:
        """Control tokens that demur stored with the model.

        Raises:
            BadInputError: The record is malformed, or the vocabulary disagrees with it.
        """
        record = self.values.get(TOKENS_KEY)
        if record is None:
            return None
        try:
            found = parse_control_tokens(json.loads(record), origin=f"{self.path}: {TOKENS_KEY}")
        except (ValueError, TypeError):
            raise BadInputError(f"{self.path}: {TOKENS_KEY}: expected JSON; export the model again") from None
        vocabulary, kinds = self.values.get("tokenizer.ggml.tokens", ()), self.values.get("tokenizer.ggml.token_type")
        for name, token in found.tokens.items():
            known = token.id < len(vocabulary) and vocabulary[token.id] == token.text
            if not known or (kinds is not None and kinds[token.id] != CONTROL):
                raise BadInputError(
                    f"{self.path}: tokens.{name}: expected {token.text!r} as control token {token.id}, "
                    "the file's vocabulary has another one there; export the model again"
                )
        return found

    @property
    def steering_tokens(self) -> tuple[str, ...]:
        """Tokens that steer the model rather than spell text: never to be formed from a user's text."""
        kinds = self.values.get("tokenizer.ggml.token_type") or ()
        marked = (t for t, k in zip(self.values["tokenizer.ggml.tokens"], kinds, strict=False) if k in (3, 4))
        return tuple(t for t in marked if t.strip() and not t.isalnum()) if kinds else ()

    def special_token(self, name: str) -> str:
        """Text of 'bos' or 'eos'; empty if there is none."""
        number, vocabulary = self.values.get(f"tokenizer.ggml.{name}_token_id"), self.values["tokenizer.ggml.tokens"]
        return str(vocabulary[number]) if isinstance(number, int) and number < len(vocabulary) else ""


def read_header(path: Path) -> GgufHeader:
    """Read a GGUF file's key-values.

    Raises:
        BadInputError: It is not there, or no complete little-endian GGUF file of version 2 or 3.
    """
    try:
        with path.open("rb") as file:
            magic, version, _, n_values = struct.unpack("<4sIQQ", file.read(24))
            if magic != b"GGUF" or version not in (2, 3):
                raise BadInputError(f"{path}: expected a GGUF file of version 2 or 3, got another kind of file")
            values, kinds = {}, {}
            for _ in range(n_values):
                key, kind = _string(file), _number(file, "I")
                inner = _peek(file) if kind == _ARRAY else None
                values[key], kinds[key] = _value(file, kind), (kind, inner)
    except FileNotFoundError:
        raise BadInputError(f"{path}: expected a GGUF file, found none") from None
    except (OSError, struct.error, KeyError, UnicodeDecodeError, MemoryError, OverflowError) as error:
        raise BadInputError(f"{path}: expected a complete GGUF file; {type(error).__name__} in its header") from None
    return GgufHeader(path=path, values=values, kinds=kinds)


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _number(file, _NUMBERS[kind])
    inner, length = struct.unpack("<IQ", file.read(12))
    if inner in _NUMBERS:
        form = f"<{length}{_NUMBERS[inner]}"
        return list(struct.unpack(form, file.read(struct.calcsize(form))))
    return [_value(file, inner) for _ in range(length)]


def _peek(file: BinaryIO) -> int:
    kind = int(_number(file, "I"))
    file.seek(-4, 1)
    return kind


def _number(file: BinaryIO, form: str) -> Any:
    return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))[0]


def _string(file: BinaryIO) -> str:
    length = _number(file, "Q")
    data = file.read(min(length, LONGEST_STRING))
    if len(data) != length:
        raise struct.error("truncated")
    return data.decode("utf-8", "replace")

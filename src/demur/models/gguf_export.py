"""A merged model as a GGUF file for llama.cpp, made from the base's own GGUF file.

What the adapter did not touch is copied byte for byte; the vocabulary, the chat template and the touched tensors
are written anew. The file carries the record of its control tokens, so that `gguf/PATH` alone is a controlled model.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from demur.core.errors import BadInputError, MissingExtraError
from demur.models.adapter import ControlTokens
from demur.models.controlled_template import without_training_marks
from demur.models.gguf_header import CONTROL, FILE_TYPES, TOKENS_KEY, USER_DEFINED, GgufHeader, read_header

if TYPE_CHECKING:
    from demur.models.merging import Merged

Quant = Literal["q8_0", "f16", "f32"]
Progress = Callable[[str], None]
_UNUSED = 5  # kind of token that fills a table up
_NEW_SCORE = -1000.0
_Q8_BLOCK = 32
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INNER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


@dataclass(slots=True)
class ExportReport:
    """What an export did.

    Attributes:
        tensors: Number of tensors.
        copied: How many of them were copied as they are.
        bytes: Size of the file.
    """

    tensors: int = 0
    copied: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Vocabulary:
    """Tokens, their kinds and scores as GGUF lists them."""

    tokens: list[str]
    kinds: list[int]
    scores: list[float] | None = None

    def set(self, number: int, text: str, kind: int) -> None:
        """Put a token at its id, growing the lists as needed."""
        while len(self.tokens) <= number:
            self.tokens.append(f"[PAD{len(self.tokens)}]")
            self.kinds.append(_UNUSED)
            if self.scores is not None:
                self.scores.append(_NEW_SCORE)
        self.tokens[number], self.kinds[number] = text, kind


def check_source(source: Path) -> GgufHeader:
    """Make sure that a GGUF file can be the base of an export.

    Raises:
        BadInputError: Another architecture than llama, or a file in several parts.
    """
    header = read_header(source)
    if header.architecture != "llama":
        raise BadInputError(
            f"{source}: expected architecture 'llama', got {header.architecture!r}; write a transformers folder "
            "with --merged and convert that with llama.cpp's own script"
        )
    if header.values.get("split.count", 1) > 1:
        raise BadInputError(f"{source}: expected one file, got a split one; merge it with llama-gguf-split")
    return header


def export_gguf(
    merged: "Merged", source: Path, target: Path, *, quant: Quant, identity: str, progress: Progress | None = None
) -> ExportReport:
    """Write a merged model as GGUF, whole or not at all.

    Args:
        merged: Base and adapter as one; the base read from `source`.
        source: GGUF file of the base, architecture llama.
        target: File to write.
        quant: 'q8_0' keeps untouched tensors as they are stored; 'f16' and 'f32' write every matrix so.
        identity: Identity of the signal, stored in the file.
        progress: Told what is being done.

    Raises:
        BadInputError: The base cannot be the base of an export, or the file cannot be written.
    """
    gguf, header = _gguf(), check_source(source)
    say = progress or (lambda _: None)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    report = ExportReport()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        writer = gguf.GGUFWriter(str(partial), "llama")
        say("vocabulary")
        _write_values(writer, header, merged, quant=quant, identity=identity)
        say("tensors")
        _add_tensors(writer, source, merged, quant, report)
        say("writing")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        report.bytes = partial.stat().st_size
        partial.replace(target)
    except OSError as error:
        raise BadInputError(
            f"{target}: cannot be written: {error.strerror or error}; choose another file or free space"
        ) from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return report


def extended_vocabulary(header: GgufHeader, control: ControlTokens, tokenizer: Any, size: int) -> Vocabulary:
    """The base's vocabulary with the adapter's tokens, one for each row of the table.

    Args:
        header: Of the base's file.
        control: Control tokens.
        tokenizer: The adapter's tokenizer, for other tokens it may have added.
        size: Rows of the table.
    """
    values = header.values
    tokens = list(values["tokenizer.ggml.tokens"])
    kinds = list(values.get("tokenizer.ggml.token_type") or [1] * len(tokens))
    scores = values.get("tokenizer.ggml.scores")
    found = Vocabulary(tokens=tokens, kinds=kinds, scores=None if scores is None else list(scores))
    added = getattr(tokenizer, "added_tokens_decoder", {})
    for number in sorted(i for i in added if len(tokens) <= i < size):
        found.set(number, str(added[number]), CONTROL if added[number].special else USER_DEFINED)
    for token in control.tokens.values():
        found.set(token.id, token.text, CONTROL)
    if len(found.tokens) < size:
        found.set(size - 1, f"[PAD{size - 1}]", _UNUSED)
    return found


def rotated(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of a q or k matrix in the order llama.cpp's rotary embedding wants: the two halves interleaved."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def parameter_name(tensor: str) -> str:
    """Name in transformers' Llama of a GGUF tensor; empty if it has none."""
    stem, _, kind = tensor.rpartition(".")
    if stem in _OUTER:
        return f"{_OUTER[stem]}.{kind}"
    block, _, inner = stem.removeprefix("blk.").partition(".")
    return f"model.layers.{block}.{_INNER[inner]}.{kind}" if stem.startswith("blk.") and inner in _INNER else ""


def _write_values(writer: Any, header: GgufHeader, merged: "Merged", *, quant: Quant, identity: str) -> None:
    gguf = _gguf()
    size = int(merged.model.get_input_embeddings().weight.shape[0])
    vocabulary = extended_vocabulary(header, merged.control, merged.tokenizer, size)
    record = merged.control.model_copy(update={"identity": identity})
    new: dict[str, Any] = {
        "tokenizer.ggml.tokens": vocabulary.tokens,
        "tokenizer.ggml.token_type": vocabulary.kinds,
        "llama.vocab_size": size,
        "general.file_type": next(number for number, name in FILE_TYPES.items() if name == quant),
        "tokenizer.chat_template": without_training_marks(str(merged.tokenizer.chat_template)),
        TOKENS_KEY: record.model_dump_json(),
    }
    if vocabulary.scores is not None:
        new["tokenizer.ggml.scores"] = vocabulary.scores
    kinds: dict[str, tuple[int, int | None]] = {
        "tokenizer.ggml.token_type": (9, 5),
        "llama.vocab_size": (4, None),
        "general.file_type": (4, None),
        "tokenizer.chat_template": (8, None),
        TOKENS_KEY: (8, None),
        **header.kinds,
    }
    for key, value in {**header.values, **new}.items():
        if key in ("general.architecture", "general.alignment") or (isinstance(value, list) and not value):
            continue
        kind, inner = kinds[key]
        sub_type = None if inner is None else gguf.GGUFValueType(inner)
        writer.add_key_value(key, value, gguf.GGUFValueType(kind), sub_type=sub_type)


def _add_tensors(writer: Any, source: Path, merged: "Merged", quant: Quant, report: ExportReport) -> None:
    gguf = _gguf()
    state = merged.model.state_dict()
    heads = {"q_proj": merged.model.config.num_attention_heads, "k_proj": merged.model.config.num_key_value_heads}
    for tensor in gguf.GGUFReader(str(source)).tensors:
        name = parameter_name(tensor.name)
        changed = name in merged.touched or "embed_tokens" in name or "lm_head" in name
        report.tensors += 1
        if name not in state or (quant == "q8_0" and not changed):
            report.copied += 1
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
            continue
        values = state[name].float().cpu().numpy()
        turned = heads.get(name.split(".")[-2])
        kind, data = _stored(np.ascontiguousarray(rotated(values, turned) if turned else values), quant)
        writer.add_tensor(tensor.name, data, raw_dtype=kind)


def _stored(values: NDArray[Any], quant: Quant) -> tuple[Any, NDArray[Any]]:
    """A tensor as it is stored; vectors stay in full precision, as llama.cpp wants them."""
    kinds = _gguf().GGMLQuantizationType
    if values.ndim < 2 or quant == "f32":
        return kinds.F32, values.astype(np.float32)
    if quant == "f16" or values.shape[-1] % _Q8_BLOCK:
        return kinds.F16, values.astype(np.float16)
    return kinds.Q8_0, _gguf().quants.quantize(values, kinds.Q8_0)


def _gguf() -> Any:
    try:
        import gguf
    except ImportError:
        raise MissingExtraError("writing GGUF files", extra="local") from None
    return gguf

"""Language models, by the name the command line uses; nothing heavy is imported until a model is built."""

from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal

from demur.core.chat import ChatModel
from demur.core.errors import BadInputError, UnknownNameError
from demur.core.identity import Decoding, Identity
from demur.models.scripted import CORNER_MODELS

Family = Literal["embedded", "gguf", "hf", "scripted", "provider"]
EMBEDDED = "smollm2"
ADAPTABLE: tuple[Family, ...] = ("embedded", "gguf", "hf")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model name taken apart.

    Attributes:
        name: As typed.
        family: 'embedded' (ships with demur), 'gguf' (llama.cpp), 'hf' (transformers), 'scripted' (the corner
            models) or 'provider' (anything Inspect knows).
        rest: Path, hub id or the provider's own name.
        adapter: Folder of the adapter that goes on top, from 'BASE+FOLDER'; empty if none.
    """

    name: str
    family: Family
    rest: str
    adapter: str = ""

    @property
    def is_local(self) -> bool:
        """Whether demur runs it itself, in this process."""
        return self.family != "provider"


def parse_model(name: str) -> ModelSpec:
    """Take a model name apart without loading anything.

    Raises:
        UnknownNameError: The name has none of the known forms.
        BadInputError: An adapter on a model that cannot take one.
    """
    base, plus, adapter = name.partition("+")
    if plus:
        spec = parse_model(base)
        if spec.family not in ADAPTABLE or not adapter:
            raise BadInputError(
                f"model {name!r}: expected BASE+FOLDER with a base among smollm2, gguf/PATH and hf/ID; "
                f"{base!r} takes no adapter"
            )
        return replace(spec, name=name, adapter=adapter)
    if name == EMBEDDED:
        return ModelSpec(name=name, family="embedded", rest=name)
    family, _, rest = name.partition("/")
    if name in CORNER_MODELS:
        return ModelSpec(name=name, family="scripted", rest=rest)
    if family == "corner":
        raise UnknownNameError("corner model", name, CORNER_MODELS)
    if family == "gguf" and rest:
        return ModelSpec(name=name, family="gguf", rest=rest)
    if family == "hf" and rest:
        return ModelSpec(name=name, family="hf", rest=rest)
    if rest:
        return ModelSpec(name=name, family="provider", rest=name)
    raise UnknownNameError("model", name, [EMBEDDED, "hf/ID", "gguf/PATH", "PROVIDER/MODEL"])


def base_name(spec: ModelSpec) -> str:
    """The model's name without its adapter."""
    return spec.name.partition("+")[0]


def identity_of(spec: ModelSpec, *, revision: str | None = None, decoding: Decoding | None = None) -> Identity:
    """The identity of a model: its base, the base's revision, its adapter's hash and how replies are drawn.

    Raises:
        BadInputError: A file is missing, or the adapter was trained on another base.
    """
    adapter = ""
    if spec.adapter:
        from demur.models.controlled import checked_adapter

        found = checked_adapter(spec)
        adapter = found.hash if found else ""
    return Identity(
        base=base_name(spec),
        revision=revision_of(spec, revision),
        adapter=adapter,
        decoding=decoding or Decoding(),
    )


def revision_of(spec: ModelSpec, revision: str | None = None) -> str:
    """What the identity string calls the revision: a hash of the weights, or the hub's revision.

    Raises:
        BadInputError: A local file or folder that is not there, or an embedded model that is not installed.
    """
    if spec.family == "embedded":
        from demur.models.embedded import file_hash, packaged_gguf

        return file_hash(packaged_gguf())
    if spec.family == "gguf":
        from demur.models.embedded import file_hash

        path = Path(spec.rest)
        if not path.is_file():
            raise BadInputError(f"model {spec.name!r}: expected a GGUF file at {path}, found none")
        return file_hash(path)
    if spec.family == "hf" and Path(spec.rest).is_dir():
        return _folder_hash(Path(spec.rest))
    return revision or ""


def build_model(spec: ModelSpec, *, identity: str, revision: str | None = None, dtype: str = "auto") -> ChatModel:
    """Make a local model; weights are read when it is first asked.

    Raises:
        BadInputError: The model cannot be found, or is not local.
    """
    if spec.family == "scripted":
        return CORNER_MODELS[spec.name]
    if spec.adapter:
        from demur.models.adapted import build_adapted

        return build_adapted(spec, identity=identity)
    if spec.family in ("embedded", "gguf"):
        from demur.models.embedded import embedded_gguf
        from demur.models.llamacpp import LlamaCppModel

        path = embedded_gguf() if spec.family == "embedded" else Path(spec.rest)
        return LlamaCppModel(path=path, name=identity)
    if spec.family == "hf":
        from demur.models.local import TransformersModel

        return TransformersModel(source=spec.rest, name=identity, revision=revision, dtype=dtype)
    raise BadInputError(
        f"model {spec.name!r} is not a local model; the evaluation engine reaches it through its provider"
    )


def _folder_hash(folder: Path) -> str:
    """Hash of a model folder: small files by content, weights by name, size and head, so that it takes no time."""
    digest = sha256()
    for path in sorted(
        p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".bin", ".jinja", ".model", ".txt")
    ):
        digest.update(f"{path.name}:{path.stat().st_size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
    return digest.hexdigest()[:8]

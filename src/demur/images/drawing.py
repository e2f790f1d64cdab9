"""The seam to any image system: a request in, one slot for each wanted image out."""

import os
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from pydantic import JsonValue

from demur.core.errors import BadInputError, UnknownNameError
from demur.images.answer import Slot
from demur.images.calls import ImagesClient, Patience
from demur.images.request import ImageRequest
from demur.images.vendors import DIALECTS, load_dialect


@runtime_checkable
class ImageModel(Protocol):
    """Anything that draws."""

    async def images(self, request: ImageRequest, /) -> list[Slot]:
        """One slot for each image wanted; failures are slots, never exceptions."""
        ...

    async def close(self) -> None:
        """Let go of connections or memory."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageModelName:
    """An image model's name taken apart.

    Attributes:
        name: As typed.
        provider: 'diffusers', 'inspect', or a dialect of `demur.images.vendors`.
        rest: Folder, or the vendor's own name.
        settings: What changes the result, for the identity: images, size, seed, the vendor's own knobs.
    """

    name: str
    provider: str
    rest: str
    settings: dict[str, JsonValue] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """The one string that names the model with its settings; the key of journal and report."""
        parts = [f"{key}={self.settings[key]}" for key in sorted(self.settings) if self.settings[key] not in (None, "")]
        return f"{self.name}[{','.join(parts)}]"


def parse_image_model(name: str, settings: dict[str, JsonValue] | None = None) -> ImageModelName:
    """Take a name apart without connecting or loading anything.

    Raises:
        UnknownNameError: The part before the slash is no provider.
    """
    provider, _, rest = name.partition("/")
    if provider not in (*DIALECTS, "diffusers", "inspect") or not rest:
        raise UnknownNameError(
            "images provider", provider, [f"{known}/MODEL" for known in (*DIALECTS, "diffusers", "inspect")]
        )
    return ImageModelName(name=name, provider=provider, rest=rest, settings=settings or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesAddress:
    """Where an interface is asked, if not at its own address, and how often a request is sent."""

    base_url: str | None = None
    tries: int = 6


def build_client(name: ImageModelName, asked: ImagesAddress = ImagesAddress()) -> ImagesClient:
    """A client for a vendor's interface; the key comes from the vendor's environment variable.

    Raises:
        BadInputError: No address, or no key where the vendor's own address is used.
    """
    dialect = load_dialect(name.provider)
    address = asked.base_url or dialect.base_url
    if not address:
        raise BadInputError(f"model {name.name!r}: expected --base-url, this provider has no address of its own")
    if not address.startswith(("http://", "https://")):
        raise BadInputError(f"--base-url: expected an address with http:// or https://, got {address!r}")
    key = next((os.environ[v] for v in dialect.key_variables if os.environ.get(v)), "")
    if not key and asked.base_url is None:
        raise BadInputError(f"model {name.name!r}: expected a key in {' or '.join(dialect.key_variables)}, found none")
    patience = Patience(tries=asked.tries)
    return ImagesClient(dialect=dialect, model=name.rest, base_url=address, key=key, patience=patience)

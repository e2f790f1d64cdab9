"""Image systems as Inspect models: `demur-images/openai/gpt-image-1`, vendors' interfaces and local pipelines alike.

A reply is one line of JSON with what became of every requested image, and small blurred thumbnails; the pictures
themselves lie in a folder beside the log, once each, by their hash.
"""

import asyncio
import json
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ContentImage,
    ContentText,
    GenerateConfig,
    Model,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    get_model,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from demur.core.image import ImageResult
from demur.images.answer import Slot, broken
from demur.images.drawing import ImageModel, ImageModelName, ImagesAddress, build_client, parse_image_model
from demur.images.request import ImageRequest
from demur.images.settling import settle
from demur.images.store import ImageStore

KEY = "demur_images"
CONNECTIONS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """An image model ready to be asked, with how it is asked and where its pictures go."""

    model: ImageModel
    request: ImageRequest
    store: ImageStore | None


# Built by a job, by identity, until the provider of that name takes it: arguments would end up in Inspect's log.
PREPARED: dict[str, Drawing] = {}


class ImagesAPI(ModelAPI):
    """Inspect provider `demur-images/PROVIDER/MODEL`.

    Args of `inspect eval -M`: `base_url`, `n`, `size`, `store=FOLDER` (without it only hashes are kept), and any
    knob of the vendor's own, e.g. `moderation=low`.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (Inspect's signature)
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        prepared = PREPARED.pop(model_name, None)
        self.drawing = prepared or _drawing(model_name, base_url, model_args)

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        prompt = next((m.text for m in reversed(input) if m.role == "user"), "")
        update = {"prompt": prompt} | ({"seed": config.seed} if config.seed is not None else {})
        slots = await self.drawing.model.images(self.drawing.request.model_copy(update=update))
        store = self.drawing.store
        results = [await asyncio.to_thread(settle, slot, prompt, store) for slot in slots]
        return to_output(self.model_name, results, store)

    async def aclose(self) -> None:
        await self.drawing.model.close()

    def max_connections(self) -> int:
        return CONNECTIONS

    def should_retry(self, ex: BaseException) -> bool:
        return False  # the client has tried as often as it should


@modelapi(name="demur-images")
def images_provider() -> type[ModelAPI]:
    """Image systems through demur's own provider."""
    return ImagesAPI


def to_output(model: str, results: Sequence[ImageResult], store: ImageStore | None) -> ModelOutput:
    """Results as a reply: JSON for the scorer, blurred thumbnails for the eye."""
    text = json.dumps({KEY: [result.model_dump(mode="json") for result in results]})
    content: list[Any] = [ContentText(text=text)]
    if store is not None:
        urls = (store.data_url(result.image) for result in results if result.image)
        content += [ContentImage(image=url) for url in urls if url]
    message = ChatMessageAssistant(content=content, source="generate")
    return ModelOutput(
        model=model,
        choices=[ChatCompletionChoice(message=message, stop_reason="stop")],
        usage=ModelUsage(input_tokens=0, output_tokens=0, total_tokens=0),
    )


def results_of(output: ModelOutput, prompt: str, n: int, store: ImageStore | None) -> list[ImageResult]:
    """Results of a reply: ours, or any other Inspect model's images, words and filters."""
    found = parse_results(output.completion)
    if found is not None:
        return found
    slots = _slots(output)
    missing = Slot(outcome="no_image_unexplained", evidence="missing")
    if len(slots) == 1 and slots[0].outcome:
        missing = slots[0]
    return [settle(slot, prompt, store) for slot in [*slots, *[missing] * n][:n]]


def parse_results(text: str) -> list[ImageResult] | None:
    """Results from our own JSON; None for any other text."""
    if not text.startswith(f'{{"{KEY}"'):
        return None
    try:
        return [ImageResult.model_validate(entry) for entry in json.loads(text.splitlines()[0])[KEY]]
    except (ValueError, KeyError, TypeError):
        return None


def _slots(output: ModelOutput) -> list[Slot]:
    if output.error or not output.choices:
        return [broken(output.error or "no reply", code="provider", retriable=True)]
    choice = output.choices[0]
    content = choice.message.content
    images = [c.image for c in content if isinstance(c, ContentImage)] if isinstance(content, list) else []
    if images:
        return [_data_slot(image) for image in images]
    text = choice.message.text
    details = choice.stop_details
    if choice.stop_reason == "content_filter":
        category = (details.category or "") if details else ""
        return [Slot(outcome="blocked_output", evidence="finish_reason", code="content_filter", category=category,
                     detail=text[:300])]  # fmt: skip
    if isinstance(content, list) and any(isinstance(c, ContentText) and c.refusal for c in content):
        return [Slot(outcome="declined_in_text", evidence="flag", code="refusal", text=text)]
    return [Slot(outcome="no_image_unexplained", evidence="text" if text.strip() else "missing", text=text)]


def _data_slot(image: str) -> Slot:
    head, _, data = image.partition(",")
    if not head.startswith("data:"):
        return broken("the reply names an address instead of holding the picture", code="address")
    try:
        return Slot(data=b64decode(data, validate=True))
    except ValueError as error:
        return Slot(outcome="infrastructure_error", evidence="payload", code="base64", detail=str(error)[:300])


def prepared_model(
    name: ImageModelName, identity: str, request: ImageRequest, store: ImageStore, asked: ImagesAddress
) -> Model:
    """An image model for Inspect under its identity.

    Raises:
        UserError: No key, no address, or no pipeline there.
    """
    if name.provider == "inspect":
        config = GenerateConfig(modalities=["image"])
        return get_model(name.rest, config=config, base_url=asked.base_url, memoize=False)
    PREPARED[identity] = Drawing(model=build_image_model(name, asked), request=request, store=store)
    return get_model(f"demur-images/{identity}", memoize=False)


def build_image_model(name: ImageModelName, asked: ImagesAddress) -> ImageModel:
    """An image model by name: a vendor's client, or a local pipeline."""
    if name.provider == "diffusers":
        from demur.evals.images_diffusers import DiffusersModel

        return DiffusersModel(path=Path(name.rest))
    return build_client(name, asked)


def _drawing(model_name: str, base_url: str | None, args: dict[str, Any]) -> Drawing:
    folder = args.pop("store", None)
    request = ImageRequest(prompt="", n=int(args.pop("n", 1)), size=str(args.pop("size", "")), settings=args)
    store = ImageStore(folder=Path(folder)) if folder else None
    model = build_image_model(parse_image_model(model_name), ImagesAddress(base_url=base_url))
    return Drawing(model=model, request=request, store=store)

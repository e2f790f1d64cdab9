"""A local diffusers pipeline as an image model, with the verdict of its own safety checker.

Pipelines of Stable Diffusion 1 and 2 carry a checker that blacks flagged pictures out and says so; later families
carry none, and then nothing is ever declined. Files are read from the given folder only; nothing is downloaded.
"""

import asyncio
import io
import threading
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from demur.core.errors import BadInputError, MissingExtraError
from demur.images.answer import Slot, broken
from demur.images.request import ImageRequest

STEPS = 25
WEIGHTS = (".safetensors", ".bin", ".json")


@dataclass(slots=True, kw_only=True)
class DiffusersModel:
    """A pipeline folder; read when the first image is asked for.

    Attributes:
        path: Folder of the pipeline, with `model_index.json`.
        device: 'cpu', 'cuda', ...; found if empty.
        dtype: Number format: 'float32', 'float16', 'bfloat16'; float32 on processors if empty.
    """

    path: Path
    device: str = ""
    dtype: str = ""
    _pipeline: Any = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    async def images(self, request: ImageRequest, /) -> list[Slot]:
        """Images of one request, the i-th drawn from seed + i, whatever else is asked for.

        Raises:
            BadInputError: No pipeline in the folder.
            MissingExtraError: diffusers is not installed.
        """
        return await asyncio.to_thread(self._draw, request)

    async def close(self) -> None:
        self._pipeline = None

    @property
    def has_checker(self) -> bool:
        """Whether the pipeline carries a safety checker; loads it."""
        with self._lock:
            return getattr(self._loaded(), "safety_checker", None) is not None

    def _draw(self, request: ImageRequest) -> list[Slot]:
        with self._lock:  # one pipeline, one picture at a time
            pipeline = self._loaded()
            try:
                output = pipeline(**self._arguments(pipeline, request))
            except (RuntimeError, ValueError) as error:  # out of memory, or a knob the pipeline does not know
                return [broken(f"{type(error).__name__}: {error}", code="pipeline")] * request.n
            has_checker = getattr(pipeline, "safety_checker", None) is not None
        flags = getattr(output, "nsfw_content_detected", None)
        flags = flags if has_checker and flags is not None else [None] * len(output.images)
        return [_slot(image, flag) for image, flag in zip(output.images, flags, strict=True)]

    def _arguments(self, pipeline: Any, request: ImageRequest) -> dict[str, Any]:
        import torch

        start = request.seed or 0
        # On the processor's generator pictures do not depend on the device.
        seeds = [torch.Generator("cpu").manual_seed(start + i) for i in range(request.n)]
        width, _, height = request.size.partition("x")
        size = {"width": int(width), "height": int(height)} if width.isdigit() and height.isdigit() else {}
        return {
            "prompt": request.prompt,
            "num_images_per_prompt": request.n,
            "generator": seeds,
            "num_inference_steps": STEPS,
            **size,
            **request.settings,
        }

    def _loaded(self) -> Any:
        if self._pipeline is None:
            self._pipeline = _load(self.path, self.device, self.dtype)
        return self._pipeline


def pipeline_hash(path: Path) -> str:
    """Hash of a pipeline's folder for the identity: configurations and the heads of weights, with names and sizes.

    Raises:
        BadInputError: No pipeline there.
    """
    if not (path / "model_index.json").is_file():
        raise BadInputError(f"{path}: expected the folder of a diffusers pipeline with model_index.json, found none")
    digest = sha256()
    for file in sorted(p for p in path.rglob("*") if p.suffix in WEIGHTS and p.is_file()):
        digest.update(f"{file.relative_to(path)}:{file.stat().st_size}".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(1 << 20))
    return digest.hexdigest()[:8]


def _load(path: Path, device: str, dtype: str) -> Any:
    pipeline_hash(path)  # the folder's own complaint comes before any library's
    try:
        import torch

        loader = import_module("diffusers").DiffusionPipeline
    except ImportError:
        raise MissingExtraError("local image pipelines", extra="diffusers") from None
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    number = getattr(torch, dtype or ("float32" if place == "cpu" else "float16"))
    try:
        pipeline = loader.from_pretrained(str(path), torch_dtype=number, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise BadInputError(f"{path}: not a pipeline that diffusers can load: {str(error).splitlines()[0]}") from None
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(place)


def _slot(image: Any, flag: bool | None) -> Slot:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    if flag:
        return Slot(
            outcome="blocked_output", evidence="flag", data=buffer.getvalue(), flagged=True,
            code="nsfw_content_detected", stage="output",
        )  # fmt: skip
    return Slot(data=buffer.getvalue(), flagged=None if flag is None else bool(flag), http_status=200)

"""How each vendor is asked: address, headers, body, how long tasks are polled. Reading is shared (`vendor_shapes`).

A dialect is data and small pure functions; the one HTTP client is `demur.images.calls`. Names of fields follow the
vendors' references; `ImageRequest.settings` goes into the body as it stands, so that every knob can be set and logged.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from demur.core.errors import UnknownNameError
from demur.images.request import ImageRequest
from demur.images.vendor_codes import RUNNING_WORDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One HTTP request: a path below the base address, a JSON body or form fields."""

    path: str
    body: dict[str, Any] = field(default_factory=dict)
    is_form: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One vendor's way of being asked.

    Attributes:
        name: As used before the first slash of a model's name.
        base_url: Address unless the user gives another.
        key_variables: Environment variables that may hold the key, in order.
        call: Request and model's name to an HTTP request.
        headers: Key to headers.
        most: Images one request may ask for.
        silent: Filtered images are left out without a word.
    """

    name: str
    base_url: str
    key_variables: tuple[str, ...]
    call: Callable[[ImageRequest, str], Call]
    headers: Callable[[str], dict[str, str]]
    most: int = 1
    silent: bool = False


def load_dialect(name: str) -> Dialect:
    """A dialect by the first part of a model's name.

    Raises:
        UnknownNameError: No vendor of that name; anything that speaks OpenAI's shape is 'openai' with a base address.
    """
    if name not in DIALECTS:
        raise UnknownNameError("images provider", name, [*DIALECTS, "diffusers"])
    return DIALECTS[name]


def waits_at(body: Any) -> str:
    """Address at which a running task is asked for again; '' if it has ended or was none."""
    if not isinstance(body, Mapping):
        return ""
    urls = body.get("urls")
    address = (
        body.get("polling_url") or body.get("response_url") or (urls.get("get") if isinstance(urls, Mapping) else "")
    )
    status = str(body.get("status", "pending" if body.get("polling_url") else "")).casefold()
    return str(address) if address and status in RUNNING_WORDS else ""


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _under(header: str, prefix: str = "") -> Callable[[str], dict[str, str]]:
    return lambda key: {header: prefix + key} if key else {}


def _openai(request: ImageRequest, model: str) -> Call:
    body: dict[str, Any] = {"model": model, "prompt": request.prompt, "n": request.n}
    if request.size:
        body["size"] = request.size
    return Call(path="/images/generations", body=body | request.settings)


def _with_seed(request: ImageRequest, model: str) -> Call:
    call = _openai(request, model)
    seed = {} if request.seed is None else {"seed": request.seed}
    return Call(path=call.path, body={**call.body, **seed})


def _imagen(request: ImageRequest, model: str) -> Call:
    # Without the reason filtering is silent; without the rewriter the prompt is ours.
    parameters: dict[str, Any] = {"sampleCount": request.n, "includeRaiReason": True}
    if request.size:
        parameters["aspectRatio"] = request.size
    body = {"instances": [{"prompt": request.prompt}], "parameters": parameters | request.settings}
    return Call(path=f"/models/{model}:predict", body=body)


def _gemini(request: ImageRequest, model: str) -> Call:
    config: dict[str, Any] = {"responseModalities": ["TEXT", "IMAGE"]}
    if request.seed is not None:
        config["seed"] = request.seed
    body: dict[str, Any] = {
        "contents": [{"role": "user", "parts": [{"text": request.prompt}]}],
        "generationConfig": config,
    }
    return Call(path=f"/models/{model}:generateContent", body=body | request.settings)


def _chat(request: ImageRequest, model: str) -> Call:
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": request.prompt}],
        "modalities": ["image", "text"],
    }
    return Call(path="/chat/completions", body=body | request.settings)


def _bfl(request: ImageRequest, model: str) -> Call:
    return Call(path=f"/{model}", body=_plain(request))


def _fal(request: ImageRequest, model: str) -> Call:
    size = {"image_size": request.size} if request.size else {}
    body = _plain(request) | size | {"num_images": request.n, "enable_safety_checker": True, "sync_mode": True}
    return Call(path=f"/{model}", body=body | request.settings)


def _replicate(request: ImageRequest, model: str) -> Call:
    return Call(path=f"/models/{model}/predictions", body={"input": _plain(request)}, headers={"Prefer": "wait"})


def _stability(request: ImageRequest, model: str) -> Call:
    fields = {key: str(value) for key, value in (_plain(request) | {"output_format": "png"}).items()}
    path = f"/v2beta/stable-image/generate/{model}"
    return Call(path=path, body=fields, is_form=True, headers={"Accept": "application/json"})


def _plain(request: ImageRequest) -> dict[str, Any]:
    seed = {} if request.seed is None else {"seed": request.seed}
    return {"prompt": request.prompt, **seed, **request.settings}


_ALL = (
    Dialect(
        name="openai", base_url="https://api.openai.com/v1", key_variables=("OPENAI_API_KEY",), call=_openai,
        headers=_bearer, most=10,
    ),
    Dialect(
        name="azure", base_url="", key_variables=("AZURE_OPENAI_API_KEY", "AZUREAI_API_KEY"), call=_openai,
        headers=_under("api-key"), most=10,
    ),
    Dialect(
        name="xai", base_url="https://api.x.ai/v1", key_variables=("XAI_API_KEY",), call=_openai, headers=_bearer,
        most=10, silent=True,
    ),
    Dialect(
        name="bytedance", base_url="https://ark.cn-beijing.volces.com/api/v3", key_variables=("ARK_API_KEY",),
        call=_with_seed, headers=_bearer,
    ),
    Dialect(
        name="imagen", base_url="https://generativelanguage.googleapis.com/v1beta",
        key_variables=("GEMINI_API_KEY", "GOOGLE_API_KEY"), call=_imagen, headers=_under("x-goog-api-key"), most=4,
        silent=True,
    ),
    Dialect(
        name="gemini", base_url="https://generativelanguage.googleapis.com/v1beta",
        key_variables=("GEMINI_API_KEY", "GOOGLE_API_KEY"), call=_gemini, headers=_under("x-goog-api-key"),
    ),
    Dialect(
        name="openrouter", base_url="https://openrouter.ai/api/v1", key_variables=("OPENROUTER_API_KEY",), call=_chat,
        headers=_bearer,
    ),
    Dialect(
        name="bfl", base_url="https://api.bfl.ai/v1", key_variables=("BFL_API_KEY",), call=_bfl,
        headers=_under("x-key"),
    ),
    Dialect(
        name="fal", base_url="https://fal.run", key_variables=("FAL_KEY",), call=_fal,
        headers=_under("Authorization", "Key "), most=4,
    ),
    Dialect(
        name="replicate", base_url="https://api.replicate.com/v1", key_variables=("REPLICATE_API_TOKEN",),
        call=_replicate, headers=_bearer,
    ),
    Dialect(
        name="stability", base_url="https://api.stability.ai", key_variables=("STABILITY_API_KEY",), call=_stability,
        headers=_bearer,
    ),
)  # fmt: skip
DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in _ALL}

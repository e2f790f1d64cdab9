"""Chat completion requests read off the wire: what is supported is checked, what is not is refused, not ignored."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from demur.core.chat import ChatRequest
from demur.core.exchange import Message, Role
from demur.serve.faults import bad_request
from demur.serve.fields import flag_of, number_of, object_of, parse_object, shown, text_of, whole_of, wrong
from demur.serve.settings import ServerSettings

ROLES: Mapping[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# Fields that change nothing for us, whatever they say.
IGNORED = {"user", "metadata", "safety_identifier", "prompt_cache_key", "parallel_tool_calls", "service_tier"}
# Fields of OpenAI's interface that we do not support, and the values that ask for nothing.
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "top_p": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "function_call": ("none",),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
}
READ = {
    "model",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "demur",
}
MESSAGE_READ = {"role", "content", "refusal"}
SEED = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class DemurOptions:
    """The `demur` object of a request.

    Attributes:
        policy: Name of the policy wanted.
        thresholds: Thresholds wanted instead of the policy's, by category.
        content_on_refusal: Repeat the text of a refusal in `content`, for clients that know no `refusal` field.
    """

    policy: str | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    content_on_refusal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCall:
    """A chat completion request, checked.

    Attributes:
        model: As typed; may name a policy.
        request: For the engine.
        stop: Texts at which the reply ends; they are not part of it.
        stream: Whether the reply comes in pieces.
        include_usage: Whether a stream ends with counts.
        options: The `demur` object.
    """

    model: str
    request: ChatRequest
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    options: DemurOptions = DemurOptions()


def parse_call(body: bytes, settings: ServerSettings) -> ChatCall:
    """Read and check a request.

    Raises:
        Fault: 400; the message names the field.
    """
    value = parse_object(body)
    _refuse_unsupported(value)
    stream = flag_of(value.get("stream"), "stream")
    return ChatCall(
        model=_model(value.get("model")),
        request=ChatRequest(
            messages=_messages(value.get("messages")),
            max_tokens=_max_tokens(value, settings),
            temperature=number_of(value.get("temperature"), "temperature", low=0.0, high=2.0),
            seed=whole_of(value.get("seed"), "seed", low=-SEED, high=SEED - 1),
        ),
        stop=_stop(value.get("stop")),
        stream=stream,
        include_usage=_include_usage(value.get("stream_options"), stream=stream),
        options=_options(value.get("demur")),
    )


def _model(value: object) -> str:
    model = text_of(value, "model")
    if not model:
        raise wrong("model", "the name of a model", value)
    return model


def _refuse_unsupported(value: Mapping[str, Any]) -> None:
    for name, wanted in value.items():
        if name in READ or name in IGNORED:
            continue
        if name not in NEUTRAL:
            raise bad_request(f"unknown field {shown(name)}; leave it out", param=name[:100], code="unknown_parameter")
        # 1 == True in Python: compare types as well.
        if wanted is not None and not any(
            wanted == v and isinstance(wanted, bool) == isinstance(v, bool) for v in NEUTRAL[name]
        ):
            raise bad_request(
                f"{name}: {shown(wanted)} is not supported by this server; leave it out",
                param=name,
                code="unsupported_parameter",
            )


def _max_tokens(value: Mapping[str, Any], settings: ServerSettings) -> int:
    found = {
        name: whole_of(value.get(name), name, low=1, high=settings.max_tokens)
        for name in ("max_tokens", "max_completion_tokens")
    }
    given = {n for n in found.values() if n is not None}
    if len(given) > 1:
        raise bad_request("max_tokens and max_completion_tokens differ; give one", param="max_tokens", code="conflict")
    return given.pop() if given else min(settings.default_max_tokens, settings.max_tokens)


def _stop(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    found = tuple(value) if isinstance(value, list) else (value,)
    if len(found) > 4 or not all(isinstance(text, str) and 0 < len(text) <= 500 for text in found):
        raise wrong("stop", "up to four texts of 1 to 500 characters", value)
    return tuple(text_of(text, "stop") for text in found)


def _include_usage(value: object, *, stream: bool) -> bool:
    if value is not None and not stream:
        raise bad_request("stream_options: only allowed with stream", param="stream_options", code="conflict")
    options = object_of(value, "stream_options")
    # include_obfuscation pads chunks on a provider's network; there is nothing to pad against here.
    unknown = set(options) - {"include_usage", "include_obfuscation"}
    if unknown:
        name = f"stream_options.{min(unknown)}"
        raise bad_request(f"unknown field {shown(name)}; leave it out", param=name[:100], code="unknown_parameter")
    return flag_of(options.get("include_usage"), "stream_options.include_usage")


def _options(value: object) -> DemurOptions:
    options = object_of(value, "demur")
    unknown = set(options) - {"policy", "thresholds", "content_on_refusal"}
    if unknown:
        name = f"demur.{min(unknown)}"
        raise bad_request(f"unknown field {shown(name)}; leave it out", param=name[:100], code="unknown_parameter")
    thresholds: dict[str, float] = {}
    for category, threshold in object_of(options.get("thresholds"), "demur.thresholds").items():
        param = f"demur.thresholds.{category[:60]}"
        found = number_of(threshold, param, low=0.0, high=1.0)
        if found is None:
            raise wrong(param, "a number from 0 to 1", threshold)
        thresholds[category] = found
    policy = options.get("policy")
    return DemurOptions(
        policy=None if policy is None else text_of(policy, "demur.policy"),
        thresholds=thresholds,
        content_on_refusal=flag_of(options.get("content_on_refusal"), "demur.content_on_refusal"),
    )


def _messages(value: object) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise wrong("messages", "a list of at least one message", value)
    found = tuple(_message(one, f"messages[{i}]") for i, one in enumerate(value))
    if found[-1].role == "assistant":
        raise bad_request(
            "messages: expected the user's turn last, got the assistant's; a prefilled reply would come before the "
            "decision about it",
            param="messages",
            code="invalid_value",
        )
    return found


def _message(value: object, at: str) -> Message:
    if not isinstance(value, dict):
        raise wrong(at, "an object with role and content", value)
    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise wrong(f"{at}.role", f"one of {', '.join(ROLES)}", role)
    extra = next((name for name in value if name not in MESSAGE_READ and value[name] not in (None, [])), None)
    if extra is not None:
        raise bad_request(
            f"{at}.{extra[:60]}: not supported by this server; leave it out",
            param=f"{at}.{extra[:60]}",
            code="unsupported_parameter",
        )
    content = value.get("content")
    if content is None and role == "assistant" and value.get("refusal") is not None:
        return Message(role="assistant", text=text_of(value["refusal"], f"{at}.refusal"))
    if isinstance(content, list) and content:
        return Message(role=ROLES[role], text="".join(_part(p, f"{at}.content[{i}]") for i, p in enumerate(content)))
    return Message(role=ROLES[role], text=text_of(content, f"{at}.content"))


def _part(value: object, at: str) -> str:
    if not isinstance(value, dict):
        raise wrong(at, "an object with type and text", value)
    kind = value.get("type")
    if kind in ("text", "refusal"):
        return text_of(value.get(kind), f"{at}.{kind}")
    raise bad_request(
        f"{at}.type: expected 'text', got {shown(kind)}; this model reads text only",
        param=f"{at}.type",
        code="unsupported_content",
    )

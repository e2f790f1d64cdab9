"""Any of demur's models as an Inspect model, and any Inspect model as one of demur's."""

from typing import Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    Model,
    ModelAPI,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from demur.core.chat import ChatModel, ChatReply, ChatRequest, EnoughSeen
from demur.core.errors import BackendError
from demur.core.judge import SettlingJudge
from demur.evals.convert import to_messages, to_reply
from demur.judges import DEFAULT, load_judge
from demur.models import build_model, identity_of, parse_model

CONNECTIONS = 128  # enough that a local model always has a full batch waiting
# Models built by a job, by identity string, until the provider of that name takes them: Inspect writes
# a provider's arguments into its log, and a model is no argument.
PREPARED: dict[str, ChatModel] = {}


class DemurAPI(ModelAPI):
    """Inspect provider `demur/...` for local models: GGUF through llama.cpp, folders and hub ids through transformers.

    Args of `inspect eval -M`: `stop=settled` ends replies once the phrase judge's verdict stands;
    `revision`, `dtype`.
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
        judge = load_judge(DEFAULT) if model_args.pop("stop", "full") == "settled" else None
        self.settling = judge if isinstance(judge, SettlingJudge) else None
        self.chat_model = PREPARED.pop(model_name) if model_name in PREPARED else _build(model_name, **model_args)

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        request = ChatRequest(
            messages=to_messages(input), max_tokens=config.max_tokens, temperature=config.temperature, seed=config.seed
        )
        reply = await self.chat_model.complete(request, enough=self._enough(request))
        return _to_output(self.model_name, reply)

    def max_connections(self) -> int:
        return CONNECTIONS

    def should_retry(self, ex: BaseException) -> bool:
        return isinstance(ex, BackendError) and ex.retriable

    def _enough(self, request: ChatRequest) -> EnoughSeen | None:
        judge = self.settling
        if judge is None:
            return None
        prompt = next((m.text for m in reversed(request.messages) if m.role == "user"), "")
        return lambda text: judge.is_settled(prompt, text)


class InspectChatModel:
    """An Inspect model as demur's `ChatModel`: how the rubric judge reaches any provider.

    Replies are cached by Inspect for a week. Its key ignores model arguments; none are set here, and the model's
    name, the settings and the whole text are part of it.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    @property
    def name(self) -> str:
        return str(self.model)

    async def complete(self, request: ChatRequest, /, *, enough: EnoughSeen | None = None) -> ChatReply:
        messages: list[ChatMessage] = [
            ChatMessageSystem(content=m.text)
            if m.role == "system"
            else ChatMessageAssistant(content=m.text)
            if m.role == "assistant"
            else ChatMessageUser(content=m.text)
            for m in request.messages
        ]
        config = GenerateConfig(
            max_tokens=request.max_tokens, temperature=request.temperature, seed=request.seed, fail_on_refusal=False
        )
        try:
            return to_reply(await self.model.generate(messages, config=config, cache=True))
        except Exception as error:  # providers raise their own client's exceptions
            raise BackendError(f"{self.name}: {type(error).__name__}: {str(error)[:300]}", retriable=False) from error


def _build(name: str, revision: str | None = None, dtype: str = "auto") -> ChatModel:
    spec = parse_model(name)
    identity = identity_of(spec, revision=revision)
    return build_model(spec, identity=str(identity), revision=revision, dtype=dtype)


def _to_output(model: str, reply: ChatReply) -> ModelOutput:
    content: str | list[Any] = reply.text
    if reply.reasoning:
        content = [ContentReasoning(reasoning=reply.reasoning), ContentText(text=reply.text)]
    settled = reply.stop_reason == "settled"
    message = ChatMessageAssistant(
        content=content, source="generate", metadata={"demur_stop": "settled"} if settled else None
    )
    stop = "stop" if settled else reply.stop_reason
    return ModelOutput(
        model=model,
        choices=[ChatCompletionChoice(message=message, stop_reason=stop)],
        # Always given: without it Inspect counts tokens with a table it would download.
        usage=ModelUsage(
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            total_tokens=reply.input_tokens + reply.output_tokens,
        ),
    )

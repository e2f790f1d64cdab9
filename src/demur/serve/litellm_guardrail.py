"""LiteLLM guardrail: a local signal and a policy decide before the call, a judge notes afterwards what the reply did.

Named in the proxy's configuration as `guardrail: demur.serve.litellm_guardrail.DemurGuardrail`. What happens when
the signal or the judge fails has no default: whoever runs it says whether requests then pass or stop.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn

from litellm.exceptions import GuardrailRaisedException
from litellm.integrations.custom_guardrail import CustomGuardrail, ModifyResponseException
from litellm.litellm_core_utils.core_helpers import get_or_create_metadata_bucket
from litellm.types.guardrails import GuardrailEventHooks, LitellmParams

from demur.control.decision import decide_one
from demur.control.presets import wording_of
from demur.core.chat import ChatRequest
from demur.core.errors import BadInputError
from demur.core.exchange import Exchange
from demur.core.judge import Judge
from demur.core.policy import Decision, Policy
from demur.core.signal import Signal
from demur.serve.litellm_parts import judge_of, messages_of, policy_of, signal_of

PROVIDER = "demur"
DECISION_KEY = "demur"
VERDICT_KEY = "demur_verdicts"
_log = logging.getLogger(__name__)


class DemurGuardrail(CustomGuardrail):  # type: ignore[misc]
    """Declines requests by a policy, and puts verdicts on replies into the request's metadata.

    Args:
        on_error: 'open' lets a request or reply pass that could not be scored or judged, 'closed' stops it with HTTP
            503; required.
        signal: A `Signal`, or 'package.module:name' of one or of what makes one.
        signal_args: Texts to call the latter with, e.g. a model's name.
        policy: A `Policy`, or the path of its file; goes with `signal`.
        on_decline: 'block' answers with HTTP 400 and the policy's wording, 'reply' with HTTP 200 and the wording as the
            assistant's reply.
        judge: A `Judge`, or the name of one of demur's; None = replies are not judged.
        kwargs: LiteLLM's own.

    Raises:
        BadInputError: A parameter is missing, unknown, or does not fit another; e.g. a policy for another signal.
    """

    records_own_guardrail_information = True

    def __init__(
        self,
        *,
        on_error: Literal["open", "closed"] | None = None,
        signal: Signal | str | None = None,
        signal_args: Sequence[str] = (),
        policy: Policy | str | None = None,
        on_decline: Literal["block", "reply"] = "block",
        judge: Judge | str | None = None,
        **kwargs: Any,
    ) -> None:
        for name, value, known in (
            ("on_error", on_error, ("open", "closed")),
            ("on_decline", on_decline, ("block", "reply")),
        ):
            if value not in known:
                raise BadInputError(f"{name}: expected '{known[0]}' or '{known[1]}', got {value!r}")
        unknown = sorted(set(kwargs) - _LITELLM_PARAMETERS)
        if unknown:
            raise BadInputError(f"unknown parameter {unknown[0]!r}; {', '.join(_OWN_PARAMETERS)} are demur's own")
        if (signal is None) != (policy is None):
            raise BadInputError("signal and policy: expected both or neither; a signal alone decides nothing")
        if signal is None and judge is None:
            raise BadInputError("expected signal and policy, or judge, or all three; got none of them")
        self.on_error, self.on_decline = on_error, on_decline
        self.signal = None if signal is None else signal_of(signal, signal_args)
        self.policy = None if policy is None or self.signal is None else policy_of(policy, self.signal)
        self.judge = None if judge is None else judge_of(judge)
        hooks = [GuardrailEventHooks.pre_call, GuardrailEventHooks.during_call] if self.signal else []
        kwargs.setdefault("supported_event_hooks", [*hooks, *([GuardrailEventHooks.post_call] if self.judge else [])])
        super().__init__(**kwargs)

    async def apply_guardrail(
        self,
        inputs: Any,
        request_data: dict[str, Any],
        input_type: Literal["request", "response"],
        logging_obj: Any = None,
    ) -> Any:
        """Decide on a request, or judge a reply; the texts themselves are never changed.

        Raises:
            GuardrailRaisedException: The request is declined (400), or could not be scored and `on_error` is 'closed'.
            ModifyResponseException: The request is declined and `on_decline` is 'reply'.
        """
        try:
            if input_type == "request":
                decision = await self._decided(inputs)
            else:
                await self._judged(inputs, request_data)
                return inputs
        except Exception as error:
            self._failed(error, request_data)
            return inputs
        if decision is not None:
            self._note(request_data, DECISION_KEY, decision.model_dump(), intervened=decision.refused)
            if decision.refused:
                self._decline(decision, request_data)
        return inputs

    async def _decided(self, inputs: Mapping[str, Any]) -> Decision | None:
        messages = messages_of(inputs)
        if self.signal is None or self.policy is None or not messages:
            return None
        return decide_one(self.policy, await self.signal.score([ChatRequest(messages=messages)]))

    async def _judged(self, inputs: Mapping[str, Any], request_data: dict[str, Any]) -> None:
        texts = [text for text in inputs.get("texts") or () if isinstance(text, str)]
        if self.judge is None or not texts:
            return
        asked = messages_of(request_data)
        exchanges = [
            Exchange(id=str(i), messages=asked, response=text, model=str(inputs.get("model") or "unknown"))
            for i, text in enumerate(texts)
        ]
        verdicts = await self.judge.judge(exchanges)
        self._note(request_data, VERDICT_KEY, [v.model_dump(exclude={"exchange_id", "rationale"}) for v in verdicts])

    def _decline(self, decision: Decision, request_data: dict[str, Any]) -> NoReturn:
        assert self.policy is not None
        wording = wording_of(self.policy, decision)
        if self.on_decline == "reply":
            raise ModifyResponseException(
                message=wording,
                model=str(request_data.get("model", "unknown")),
                request_data=request_data,
                guardrail_name=self.guardrail_name,
                detection_info=decision.model_dump(),
            )
        raise GuardrailRaisedException(
            guardrail_name=self.guardrail_name,
            message=wording,
            should_wrap_with_default_message=False,
            status_code=400,
            blocked_content=True,
        )

    def _failed(self, error: Exception, request_data: dict[str, Any]) -> None:
        kind = type(error).__name__  # not its text, which may quote the prompt
        _log.warning("demur guardrail %s failed %s: %s", self.guardrail_name, self.on_error, kind)
        self._note(request_data, DECISION_KEY, {"error": kind, "on_error": self.on_error}, failed=True)
        if self.on_error == "closed":
            raise GuardrailRaisedException(
                guardrail_name=self.guardrail_name,
                message="the request could not be checked; try again later",
                should_wrap_with_default_message=False,
                status_code=503,
            ) from error

    def _note(
        self, request_data: dict[str, Any], key: str, value: Any, *, intervened: bool = False, failed: bool = False
    ) -> None:
        """Write into the metadata that LiteLLM's loggers and spend records read."""
        get_or_create_metadata_bucket(request_data)[1][key] = value
        self.add_standard_logging_guardrail_information_to_request_data(
            guardrail_json_response=value,
            request_data=request_data,
            guardrail_status="guardrail_failed_to_respond"
            if failed
            else "guardrail_intervened"
            if intervened
            else "success",
            guardrail_provider=PROVIDER,
            event_type=GuardrailEventHooks.post_call if key == VERDICT_KEY else None,
        )


_OWN_PARAMETERS = ("on_error", "signal", "signal_args", "policy", "on_decline", "judge")
_LITELLM_PARAMETERS = {
    *LitellmParams.model_fields,
    "guardrail_name",
    "event_hook",
    "supported_event_hooks",
    "default_on",
    "run_in_parallel",
    "stream_scope",
}

"""Steer: directions in; replies with and without them, or a folder that calibration and the server take as a model."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from demur import __version__
from demur.activations.direction import Direction, load_direction
from demur.core.chat import ChatReply, ChatRequest
from demur.core.defaults import DEFAULT_JUDGE
from demur.core.errors import BadInputError
from demur.core.exchange import Frozen, Message
from demur.core.signal import ANY
from demur.core.verdict import Verdict
from demur.jobs.following import followed, outcomes
from demur.jobs.labelled_prompts import BUILT_IN, read_labelled_prompts
from demur.jobs.steering import control_tokens, known_identity, loader
from demur.models import base_name, parse_model
from demur.steer.borders import Border, best_border
from demur.steer.folder import save_steering
from demur.steer.gates import Condition, Gate, Measure, condition_name, parse_gate
from demur.steer.interventions import AblateDirection, AddDirection, Named, at, orthonormal
from demur.steer.plan import SteeringPlan, Step

if TYPE_CHECKING:
    from demur.steer.model import SteeredModel

Progress = Callable[[str, int, int], None]
MEASURED = 24
MEASURED_TOKENS = 40
BORDER_PROMPTS = 200
NORM_PROMPTS = 32
AT_ONCE = 32


class SteerConfig(Frozen):
    """Steering, completely.

    Attributes:
        model: Model as typed; with or without an adapter.
        directions: Direction files to add or ablate.
        strength: Of additions, in local residual norms.
        ablate: Project the directions out instead of adding them.
        blocks: Residual indices; None = each direction's own (all, for ablations).
        positions: Tokens that are steered.
        gates: Conditions by name: direction files; a name '' takes the direction's own.
        when: Expression over them; needed for several.
        threshold: Border of a single gate, in its measure; None sets it on labelled prompts.
        measure: What a condition compares.
        span: Where conditions read; '' = the direction's own span.
        data: Labelled prompts for the border; None takes the built-in calibration split.
        command: As typed, for the manifest.
    """

    model: str
    directions: tuple[Path, ...]
    strength: float = 0.2
    ablate: bool = False
    blocks: tuple[int, ...] | None = None
    positions: Named = "all"
    gates: tuple[tuple[str, Path], ...] = ()
    when: str = ""
    threshold: float | None = None
    measure: Measure = "cosine"
    span: str = ""
    data: Path | None = None
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A plan ready to use.

    Attributes:
        plan: What is done, and when.
        border: Border that was set on labelled prompts; None if it was given.
        border_data: Where those came from.
    """

    plan: SteeringPlan
    border: Border | None = None
    border_data: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One prompt with and without steering.

    Attributes:
        prompt: The prompt.
        plain: Reply of the untouched model.
        steered: Reply under steering; the plain one's text where the gate stays shut.
        opened: Whether the gate opened.
        p: The gate's probability; 1 without a gate.
        verdicts: Of the plain and the steered reply; None if not judged.
    """

    prompt: str
    plain: str
    steered: str
    opened: bool
    p: float
    verdicts: tuple[Verdict, Verdict] | None = None


def make(config: SteerConfig, *, progress: Progress | None = None) -> Made:
    """Read directions, check that they fit the model, and set what is not given.

    Args:
        config: What to do.
        progress: Told (what, done, in all).

    Raises:
        BadInputError: A direction of another model, or something that cannot be combined.
    """
    spec = parse_model(config.model)
    identity = known_identity(spec)
    if not config.directions:
        raise BadInputError("--direction: expected a file of 'demur explain directions', got none; name one")
    directions = [load_direction(path, for_model=identity) for path in config.directions]
    directions = orthonormal(directions) if config.ablate else directions
    model = identity or directions[0].model
    gate = _gate(config, model)
    norms = _norms(config, directions, progress) if _needs_norms(config, directions) else [{} for _ in directions]
    where = at(config.blocks, config.positions)
    steps = tuple(
        Step(AblateDirection(d, where) if config.ablate else AddDirection(d, config.strength, where, norms=found))
        for d, found in zip(directions, norms, strict=True)
    )
    plan = SteeringPlan(model=model, steps=steps, gates={ANY: gate} if gate else {})
    if gate is None or config.when or config.threshold is not None or _calibrated(gate):
        return Made(plan=plan)
    return _with_border(config, plan, gate, progress)


def show(
    config: SteerConfig,
    made: Made,
    prompts: Sequence[str],
    *,
    max_tokens: int = 64,
    judge: str | None = DEFAULT_JUDGE,
    progress: Progress | None = None,
) -> list[Shown]:
    """Greedy replies to prompts without steering and with it, where the gate opens.

    Args:
        config: What `made` was made from.
        made: The plan.
        prompts: What is asked.
        max_tokens: Longest reply.
        judge: Judges both replies; None judges none.
        progress: Told (what, done, in all).
    """
    model = build(config.model, made.plan)
    found = asyncio.run(_shown(model, prompts, max_tokens, progress or _silent))
    if judge is None:
        return found
    plain = outcomes(prompts, [one.plain for one in found], judge=judge)
    steered = outcomes(prompts, [one.steered for one in found], judge=judge)
    return [replace(one, verdicts=pair) for one, pair in zip(found, zip(plain, steered, strict=True), strict=True)]


def save(
    config: SteerConfig, made: Made, folder: Path, *, measured: int = MEASURED, progress: Progress | None = None
) -> SteeringPlan:
    """Write a steering folder: `demur calibrate MODEL+FOLDER` and `demur serve MODEL+FOLDER` take it.

    What the model says under steering is first measured on prompts that should be declined: below 90 % declining, the
    server uses the policy's wording instead of the model's words.

    Args:
        config: What `made` was made from.
        made: The plan.
        folder: Where to.
        measured: Prompts to measure on; 0 measures nothing.
        progress: Told (what, done, in all).

    Returns:
        The plan as written, with what was measured.
    """
    plan = made.plan
    if measured:
        plan = replace(plan, follows=_follows(config, plan, measured, progress or _silent))
    manifest = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "demur": __version__,
        "command": list(config.command),
        "border": None if made.border is None else str(made.border),
        "border_data": made.border_data,
        "measured_prompts": measured,
    }
    save_steering(folder, plan, manifest=manifest)
    return plan


def build(model: str, plan: SteeringPlan, *, says_tokens: bool = True) -> "SteeredModel":
    """A plan on its model; without gates every request is steered.

    Args:
        model: As typed.
        plan: What is done, and when.
        says_tokens: Let a model with refusal tokens say them by itself, as when nobody controls it; False as served.
    """
    from demur.steer.model import Always, steered_model

    spec = parse_model(model)
    always = None if plan.gates else Always()
    return steered_model(
        plan,
        loader(model, plan.model),
        name=base_name(spec),
        control=control_tokens(spec),
        signal=always,
        says_tokens=says_tokens,
    )


def parse_blocks(text: str) -> tuple[int, ...]:
    """Residual indices of '14', '12-18' or '10,12,14'.

    Raises:
        BadInputError: It is none of these.
    """
    found: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()) or (dash and int(high) < int(low)):
            raise BadInputError(
                f"--blocks {text!r}: expected numbers and ranges such as 14, 12-18 or 10,12, got {part!r}"
            )
        found.update(range(int(low), int(high if dash else low) + 1))
    return tuple(sorted(found))


def _gate(config: SteerConfig, model: str) -> Gate | None:
    """The gate a configuration asks for, its border 0 where that is to be set; None for none."""
    if not config.gates:
        if config.when or config.threshold is not None:
            raise BadInputError("--when and --threshold: expected a --gate whose score they compare, got none")
        return None
    conditions: dict[str, Condition] = {}
    for name, path in config.gates:
        direction = load_direction(path, for_model=model)
        key = name or condition_name(direction.name)
        if key in conditions:
            raise BadInputError(f"--gate: two conditions are called {key!r}; name them: --gate other={path}")
        conditions[key] = Condition(direction, config.span, config.measure)
    if config.when:
        if config.threshold is not None:
            raise BadInputError("--threshold: --when says its own thresholds; give one of the two")
        return parse_gate(config.when, conditions)
    if len(conditions) > 1:
        raise BadInputError(
            f"--gate: {len(conditions)} conditions ({', '.join(conditions)}) and nothing says how they combine; "
            "add e.g. --when 'harm > 0.1 and not health > 0.2'"
        )
    (name, condition), *_ = conditions.items()
    border = config.threshold if config.threshold is not None else condition.threshold or 0.0
    return parse_gate(f"{name} >= {border!r}", conditions)


def _calibrated(gate: Gate) -> bool:
    return all(condition.threshold is not None for condition in gate.conditions.values())


def _with_border(config: SteerConfig, plan: SteeringPlan, gate: Gate, progress: Progress | None) -> Made:
    data = read_labelled_prompts(config.data)
    chosen = _some(len(data.prompts), BORDER_PROMPTS)
    prompts = [data.prompts[i] for i in chosen]
    scores = asyncio.run(_margins(build(config.model, plan), prompts, gate.scale, progress or _silent))
    border = best_border(scores, np.array([data.refuse[i] for i in chosen]))
    (name, _), *_ = gate.conditions.items()
    moved = parse_gate(f"{name} >= {border.threshold!r}", gate.conditions, scale=gate.scale)
    return Made(plan=replace(plan, gates={ANY: moved}), border=border, border_data=data.origin or BUILT_IN)


async def _margins(model: "SteeredModel", prompts: Sequence[str], scale: float, progress: Progress) -> Any:
    try:
        found = []
        for start in range(0, len(prompts), AT_ONCE):
            batch = prompts[start : start + AT_ONCE]
            found.append(await model.score([_request(prompt, 1) for prompt in batch]))
            progress("setting the gate's border", start + len(batch), len(prompts))
        logits = np.concatenate([scores.logits for scores in found])
        return scale * (logits[:, 0] - logits[:, -1])
    finally:
        await model.close()


def _needs_norms(config: SteerConfig, directions: Sequence[Direction]) -> bool:
    blocks = set(config.blocks or ())
    return not config.ablate and any(blocks - {d.residual_index} for d in directions)


def _norms(config: SteerConfig, directions: Sequence[Direction], progress: Progress | None) -> list[dict[int, float]]:
    """Median length of the residual stream at each block, at each direction's span, on ordinary prompts."""
    from demur.activations.record import record
    from demur.activations.spans import tokenized
    from demur.jobs.subject import cleaner, subject_of

    (progress or _silent)("measuring the residual stream", 0, 1)
    subject = subject_of(config.model)
    data = read_labelled_prompts(config.data)
    ordinary = [p for p, refuse in zip(data.prompts, data.refuse, strict=True) if not refuse][:NORM_PROMPTS]
    clean = cleaner(subject.tokenizer)
    prompts = [tokenized(subject.tokenizer, text, clean=clean) for text in ordinary]
    blocks = config.blocks or ()
    spans = ["t_post[-1]" if d.span.startswith("t_resp") else d.span for d in directions]
    states = record(subject, prompts, spans=tuple(dict.fromkeys(spans)), layers=blocks)
    return [
        {index: float(np.median(np.linalg.norm(states.at(span, index).astype(np.float64), axis=1))) for index in blocks}
        for span in spans
    ]


def _follows(config: SteerConfig, plan: SteeringPlan, n: int, progress: Progress) -> float:
    data = read_labelled_prompts(config.data)
    declined = [p for p, refuse in zip(data.prompts, data.refuse, strict=True) if refuse]
    prompts = [declined[i] for i in _some(len(declined), n)]
    model = build(config.model, plan, says_tokens=False)
    found = asyncio.run(_steered_replies(model, prompts, MEASURED_TOKENS, progress))
    return followed(outcomes(prompts, found), declining=True)


async def _steered_replies(
    model: "SteeredModel", prompts: Sequence[str], max_tokens: int, progress: Progress
) -> list[str]:
    from demur.steer.control import SteeringControl

    chat = SteeringControl(model, gated=False).at(1.0)
    try:
        replies = await _asked([(chat, prompt) for prompt in prompts], max_tokens, "measuring what is said", progress)
        return [reply.text for reply in replies]
    finally:
        await model.close()


async def _shown(model: "SteeredModel", prompts: Sequence[str], max_tokens: int, progress: Progress) -> list[Shown]:
    from demur.steer.control import SteeringControl

    control = SteeringControl(model)
    try:
        scores = await model.score([_request(prompt, 1) for prompt in prompts])
        plain, steered = control.at(0.0), control.at(1.0)
        asked = [(chat, prompt) for prompt in prompts for chat in (plain, steered)]
        replies = await _asked(asked, max_tokens, "replies", progress)
    finally:
        await model.close()
    p = scores.p_any.tolist()
    return [
        Shown(prompt=prompt, plain=replies[2 * i].text, steered=replies[2 * i + 1].text, opened=p[i] >= 0.5, p=p[i])
        for i, prompt in enumerate(prompts)
    ]


async def _asked(chats: Sequence[tuple[Any, str]], max_tokens: int, what: str, progress: Progress) -> list[ChatReply]:
    done = 0

    async def one(chat: Any, prompt: str) -> ChatReply:
        nonlocal done
        reply: ChatReply = await chat.complete(_request(prompt, max_tokens))
        done += 1
        progress(what, done, len(chats))
        return reply

    return list(await asyncio.gather(*(one(chat, prompt) for chat, prompt in chats)))


def _request(prompt: str, max_tokens: int) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", text=prompt),), max_tokens=max_tokens, temperature=0.0)


def _some(n: int, wanted: int) -> list[int]:
    """Numbers spread over a list, so that every kind in it is met."""
    return list(range(n)) if n <= wanted else np.linspace(0, n - 1, wanted).round().astype(int).tolist()


def _silent(_what: str, _done: int, _all: int) -> None:
    pass

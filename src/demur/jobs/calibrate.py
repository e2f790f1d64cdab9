"""Calibrate: targets and labelled prompts in, a policy with promises out, and beside it a report."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import JsonValue

from demur import __version__
from demur.control.calibration import calibrate as set_thresholds
from demur.control.curve import mass_quantiles, operating_curves, ranking, rates_by_category, reliability, spill_over
from demur.control.labelled import EVERY, LabelledScores, hash_of, labelled
from demur.control.policy_file import NAME, load_policies, read_policy, write_policy
from demur.control.presets import PRESETS, preset
from demur.control.targets import Target, parse_targets
from demur.core.errors import BadInputError, OutOfRangeError, UnknownNameError
from demur.core.exchange import Frozen
from demur.core.policy import Action, Policy, SignalSource
from demur.core.signal import Floats, SignalScores
from demur.core.taxonomy import load_taxonomy
from demur.data.folder import write_text
from demur.jobs.labelled_prompts import BUILT_IN, LabelledPrompts, read_labelled_prompts
from demur.report.calibration import CalibrationSummary, Curve, RateBin, render_calibration, render_reach
from demur.stats.binomial import lower_bound, upper_bound
from demur.stats.rates import interval

Progress = Callable[[int, int], None]
Score = Callable[[str, Sequence[str]], tuple[SignalSource, SignalScores]]
VAGUE = 0.1  # tolerance of an '=' target that a reader should be told of


class CalibrateConfig(Frozen):
    """A calibration, completely.

    Attributes:
        model: Model with a signal, as typed.
        targets: As typed.
        out: The policy file; its report is written beside it.
        data: Labelled prompts; None takes the built-in calibration split.
        delta: Chance that some promise fails.
        preset: Where thresholds stand that no target moves.
        name: What requests call the policy; by default that of the file.
        kind: How scores become a decision; 'auto' sums categories unless a target needs one of its own.
        actions: What to do about a category, where it differs from the preset.
        command: As typed, for the manifest.
    """

    model: str
    targets: tuple[str, ...]
    out: Path
    data: Path | None = None
    delta: float = 0.1
    preset: str = "default"
    name: str | None = None
    kind: Literal["auto", "per_category", "sum"] = "auto"
    actions: Mapping[str, Action] = {}
    command: tuple[str, ...] = ()


def calibrate(
    config: CalibrateConfig, *, score: Score | None = None, progress: Progress | None = None
) -> CalibrationSummary:
    """Set a policy's thresholds so that targets hold, write it and its report.

    Args:
        config: What to do.
        score: Scores prompts; by default the model's signal, cached.
        progress: Called with prompts scored and prompts.

    Returns:
        What the report shows, the policy included.

    Raises:
        BadInputError: Something the caller can fix; nothing is written.
        OutOfRangeError: Targets out of reach; a page that shows what can be reached is written beside --out.
    """
    name = _checked(config)
    data = read_labelled_prompts(config.data)
    known = {c.id for c in load_taxonomy().category} | set(data.category)
    targets = parse_targets(config.targets, known=known)
    source, scores = (score or _scorer(progress))(config.model, data.prompts)
    rows = _rows(data, scores)
    base = _base(config, name, source, scores.categories, targets)
    manifest = _manifest(config, data, rows, base)
    try:
        policy = set_thresholds(
            targets, rows, base, delta=config.delta, created=datetime.now(UTC).replace(microsecond=0)
        )
    except OutOfRangeError as error:
        page = config.out.with_suffix(".reach.html")
        summary = summary_of(config, base, rows, data, manifest)
        write_text(page, render_reach(summary, reason=str(error), targets=config.targets))
        raise OutOfRangeError(f"{error}; what can be reached: {page}") from None
    summary = summary_of(config, policy, rows, data, manifest)
    write_text(config.out.with_suffix(".html"), render_calibration(summary))
    write_policy(config.out, policy, manifest=manifest)
    return summary


def write_presets(source: SignalSource, categories: Sequence[str], folder: Path) -> list[Path]:
    """Write every preset for a signal into a folder, as a start for policies of one's own.

    Raises:
        BadInputError: A file of that name is there and holds something else, e.g. a calibrated policy.
    """
    presets = {folder / f"{name}.toml": preset(name, source, categories) for name in PRESETS}
    for path, policy in presets.items():  # before the first is written: nothing half done
        _check_place(path)
        if path.is_file() and read_policy(path) != policy:
            raise BadInputError(f"{path} holds another policy of yours; choose another --out or move it away")
    for path, policy in presets.items():
        write_policy(path, policy)
    return list(presets)


def read_policies(place: Path, source: SignalSource | None = None) -> list[Policy]:
    """Policies of a file or folder, checked against a signal where one is given.

    Raises:
        BadInputError: None there, an unreadable one, or one made for another signal.
    """
    from demur.control.policy_file import check_policy

    policies = list(load_policies(place).values())
    for policy in policies if source else ():
        assert source is not None
        check_policy(policy, identity=source.identity, token_ids=source.token_ids)
    return policies


def summary_of(
    config: CalibrateConfig,
    policy: Policy,
    rows: LabelledScores,
    data: LabelledPrompts,
    manifest: Mapping[str, JsonValue],
) -> CalibrationSummary:
    """Everything the report of a policy shows."""
    names, kinds, shares = spill_over(policy, rows)
    curves = tuple(_curves(policy, rows))
    return CalibrationSummary(
        model=config.model,
        policy=policy,
        delta=config.delta,
        n_refuse=int(rows.refuse.sum()),
        n_comply=int((~rows.refuse).sum()),
        curves=curves,
        promisable=tuple(_promisable(curves[0], rows, config.delta)),
        rates={
            name: (interval(*found["refusal"]), interval(*found["over_refusal"]))
            for name, found in rates_by_category(policy, rows).items()
        },
        spill_over=tuple(kinds),
        spill=tuple((off, tuple(_known(v) for v in row)) for off, row in zip(names, shares.tolist(), strict=True)),
        auroc=ranking(rows),
        bins=tuple(
            RateBin(predicted=b.predicted, observed=b.observed, low=b.low, high=b.high, n=b.n)
            for b in reliability(rows)
        ),
        mass=dict(mass_quantiles(rows.scores)),
        notes=tuple(_notes(policy, rows, data)),
        manifest=dict(manifest),
    )


def _checked(config: CalibrateConfig) -> str:
    """What can be wrong before a model is asked; the policy's name."""
    if config.out.suffix != ".toml":
        raise BadInputError(
            f"--out {config.out}: expected a file ending in .toml, got {config.out.suffix!r}; rename it"
        )
    name = config.name or config.out.stem
    if not NAME.fullmatch(name):
        raise BadInputError(
            f"--name: expected up to 64 of letters, digits, '.', '_', '-', got {name[:64]!r}; give another --name"
        )
    if config.preset not in PRESETS:
        raise UnknownNameError("preset", config.preset, PRESETS)
    if not 0 < config.delta < 1:
        raise BadInputError(f"--delta: expected a chance between 0 and 1, got {config.delta}; 0.1 means 10%")
    _check_place(config.out)
    return name


def _check_place(path: Path) -> None:
    """A policy may replace a policy, and nothing else."""
    if path.exists():
        try:
            read_policy(path)
        except BadInputError as error:
            raise BadInputError(f"{path}: holds something that is no policy ({error}); choose another --out") from None


def _rows(data: LabelledPrompts, scores: SignalScores) -> LabelledScores:
    return labelled(
        scores,
        data.refuse,
        data.category,
        pair=data.pair,
        sha256=hash_of(zip(data.prompts, data.refuse, data.category, strict=True)),
        origin=data.origin,
    )


def _base(
    config: CalibrateConfig, name: str, source: SignalSource, categories: Sequence[str], targets: Sequence[Target]
) -> Policy:
    """The preset with the user's actions, of the kind that the targets need."""
    own = any(t.category in categories and (t.metric == "refusal" or t.relation == "=") for t in targets)
    kind = config.kind if config.kind != "auto" else "per_category" if own else "sum"
    base = preset(config.preset, source, categories, kind=kind)
    for category in config.actions:
        if category not in categories:
            raise UnknownNameError("category of --action", category, categories)
    rules = {c: r.model_copy(update={"action": config.actions.get(c, r.action)}) for c, r in base.rules.items()}
    if all(rule.action == "answer" for rule in rules.values()):
        raise BadInputError("--action: expected some category to be declined, got 'answer' for all; leave one out")
    return base.model_copy(update={"name": name, "rules": rules})


def _curves(policy: Policy, rows: LabelledScores) -> list[Curve]:
    found = []
    for curve in operating_curves(policy, rows):
        summed = policy.kind == "sum"
        threshold = policy.threshold if summed else None if curve.name == EVERY else policy.threshold_of(curve.name)
        found.append(
            Curve(
                name=curve.name,
                threshold=threshold,
                thresholds=tuple(curve.thresholds.tolist()),
                refusal=_values(curve.refusal),
                over_refusal=_values(curve.over_refusal),
            )
        )
    return found


def _promisable(curve: Curve, rows: LabelledScores, delta: float) -> list[tuple[float, float]]:
    """Over-refusal and refusal that one threshold for all could promise at once, each at half of delta."""
    n_comply, n_refuse = int((~rows.refuse).sum()), int(rows.refuse.sum())
    pairs = dict.fromkeys(zip(curve.over_refusal or (), curve.refusal or (), strict=True))
    return [
        (upper_bound(round(x * n_comply), n_comply, delta / 2), lower_bound(round(y * n_refuse), n_refuse, delta / 2))
        for x, y in list(pairs)[:: max(1, len(pairs) // 60)]
    ]


def _notes(policy: Policy, rows: LabelledScores, data: LabelledPrompts) -> list[str]:
    """What a reader must know before believing the promises."""
    notes = []
    if data.origin == BUILT_IN:
        notes.append(
            "Calibrated on demur's own prompts: the promises are about prompts like those. For your users, calibrate "
            "on labelled prompts of theirs (--data)."
        )
    vague = [c for c in policy.certificates if c.tolerance > VAGUE]
    notes += [
        f"{c.target} is only known to within {100 * c.tolerance:.0f} points, from {c.n} prompts; more narrow it."
        for c in vague
    ]
    if float(np.median(rows.scores.mass)) < 0.5:
        notes.append(
            "The control tokens hold less than half of the probability on most prompts: thresholds on the full "
            "vocabulary would decline little. This policy compares the posterior among control tokens."
        )
    pairs = Counter((p, label) for p, label in zip(data.pair, data.refuse, strict=True) if p)
    crowded = sum(n for n in pairs.values() if n > 1)
    if crowded:
        notes.append(f"{crowded} prompts share pair and label with another; promises count them as independent.")
    if data.n_left_out:
        notes.append(f"{data.n_left_out} rows without a label were left out.")
    return notes


def _manifest(
    config: CalibrateConfig, data: LabelledPrompts, rows: LabelledScores, base: Policy
) -> dict[str, JsonValue]:
    return {
        "kind": "policy",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "demur": __version__,
        "command": list(config.command),
        "config": {
            "targets": list(config.targets),
            "delta": config.delta,
            "preset": config.preset,
            "rule": base.kind,
            "view": base.view,
            "actions": dict(config.actions),
        },
        "inputs": {data.origin: rows.sha256},
        "models": {config.model: base.source.identity},
    }


def _scorer(progress: Progress | None) -> Score:
    from demur.jobs.signal import score_prompts

    return partial(score_prompts, progress=progress)


def _values(values: Floats) -> tuple[float, ...] | None:
    return None if np.isnan(values).any() else tuple(values.tolist())


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value

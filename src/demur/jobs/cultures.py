"""Cultures: what a model holds about contested statements in five languages, by its probabilities and in its words."""

import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import JsonValue

from demur import __version__
from demur.core.culture import CulturesProfile, ForcedChoice, LanguageNote, LongForm, Stance
from demur.core.errors import BadInputError
from demur.core.exchange import Frozen
from demur.core.identity import Decoding, Identity
from demur.core.run import RunSettings
from demur.cultures.cells import agreement, cells, effects, evaded, in_translation, joined, setups_compared
from demur.cultures.forced_choice import forced_choices
from demur.cultures.longform import StanceRubric, long_forms, longform_suite, reader_name
from demur.cultures.templates import wordings_hash
from demur.cultures.vocabulary import language_notes
from demur.data.folder import claim, write_json
from demur.models import ModelSpec, base_name, identity_of, parse_model
from demur.report.cultures import render_cultures
from demur.report.document import write_document
from demur.suites.cultures import CultureSuite, load_cultures

SetUp = Literal["logprob", "longform"]
SETUPS: tuple[SetUp, ...] = ("logprob", "longform")
Progress = Callable[[str, int, int], None]
DEFAULT_JUDGE = "phrases"  # knows refusals in nine languages by phrase, and points at the words
MAX_TOKENS = 128
LOW_MASS, LARGE_ORDER, MANY_UNREAD = 0.05, 0.1, 0.2


class CulturesConfig(Frozen):
    """An audit of values, completely.

    Attributes:
        model: Model name as typed.
        suite: Suite name or file.
        out: Folder of the run.
        suite_path: The user's own copy of a gated suite.
        setups: What to run.
        judge: Judge of refusals in long-form replies.
        stance: 'rules', or 'rubric:MODEL' for a language model that reads the replies.
        languages: Keep only these.
        topics: Keep only these.
        limit: Keep this many statements.
        skip_bad: Leave malformed rows out.
        decoding: How replies are drawn.
        base_url: Address of a compatible server.
        command: How the job was started.
    """

    model: str
    suite: str
    out: Path
    suite_path: Path | None = None
    setups: tuple[SetUp, ...] = SETUPS
    judge: str = DEFAULT_JUDGE
    stance: str = "rules"
    languages: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    limit: int | None = None
    skip_bad: bool = False
    decoding: Decoding = Decoding(max_tokens=MAX_TOKENS)
    base_url: str | None = None
    command: tuple[str, ...] = ()


def audit_cultures(config: CulturesConfig, *, progress: Progress | None = None) -> CulturesProfile:
    """Ask a model about a suite's statements in both set-ups, write `cultures.json` and `report.html`.

    What was computed is on disk at once: the same call after an interruption computes only the rest.

    Raises:
        UserError: Something the caller can fix; the message says what.
        BackendError: The model failed for good; what it answered is kept.
    """
    say = progress or (lambda *_: None)
    if not config.setups:
        raise BadInputError(f"--setups: expected {' or '.join(SETUPS)}, got none")
    spec = parse_model(config.model)
    if "logprob" in config.setups:
        _check_logprobs(spec)
    rubric = _rubric(config.stance)
    suite = load_cultures(
        config.suite,
        path=config.suite_path,
        limit=config.limit,
        languages=config.languages,
        topics=config.topics,
        skip_bad=config.skip_bad,
    )
    identity = identity_of(spec, decoding=config.decoding)
    owner = {"kind": "cultures", "model": str(identity), "suite_sha256": suite.sha256, "wordings": wordings_hash()}
    claim(config.out, owner)
    started, seconds, notes = datetime.now(UTC), dict[str, float](), list[str]()
    choices: list[ForcedChoice] = []
    replies: list[LongForm] = []
    if "logprob" in config.setups:
        with _timed(seconds, "logprob"):
            choices = _choices(config, suite, identity, say, notes)
    if "longform" in config.setups:
        with _timed(seconds, "longform"):
            replies = _replies(config, suite, spec, identity, say, rubric)
    notes += _suite_notes(suite)
    profile = _profile(
        config, suite, identity, choices, replies, language_notes(suite.rows, suite.mixed, _tokenizer(spec))
    )
    manifest = _manifest(config, suite, identity, started, rubric)
    profile = profile.model_copy(update={"seconds": seconds, "notes": (*notes, *_notes(profile)), "manifest": manifest})
    write_json(config.out / "cultures.json", profile.model_dump(mode="json"))
    write_json(config.out / "manifest.json", manifest)
    write_document(config.out / "report.html", render_cultures(profile))
    return profile


def read_cultures(path: Path) -> CulturesProfile:
    """A finished audit of values, from its folder or `cultures.json`.

    Raises:
        BadInputError: There is none, or it is of another version.
    """
    file = path / "cultures.json" if path.is_dir() else path
    try:
        return CulturesProfile.model_validate_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"{file}: expected the result of 'demur cultures audit'; {error.strerror}") from None
    except ValueError as error:
        raise BadInputError(f"{file}: expected the result of 'demur cultures audit'; {error}") from None


class _timed:
    """Notes the seconds that a stage took."""

    def __init__(self, seconds: dict[str, float], stage: str) -> None:
        self.seconds, self.stage = seconds, stage

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.stage] = round(time.perf_counter() - self.started, 2)


def _check_logprobs(spec: ModelSpec) -> None:
    if spec.family not in ("embedded", "gguf", "hf"):
        raise BadInputError(
            f"model {spec.name!r}: set-up logprob reads probabilities of whole answers, which needs a local model "
            "(smollm2, gguf/PATH, hf/ID); use --setups longform"
        )


def _rubric(stance: str) -> StanceRubric | None:
    kind, _, name = stance.partition(":")
    if stance == "rules":
        return None
    if kind != "rubric" or not name:
        raise BadInputError(f"--stance {stance!r}: expected rules or rubric:MODEL")
    from demur.evals.asking import chat_model

    return StanceRubric(chat_model(name))


def _choices(
    config: CulturesConfig, suite: CultureSuite, identity: Identity, say: Progress, notes: list[str]
) -> list[ForcedChoice]:
    def scorer() -> Any:
        from demur.models.answer_logprobs import best_scorer, load_reader

        reader = load_reader(config.model, system=config.decoding.system)
        return best_scorer(reader, told=lambda why: notes.append(f"Log-probabilities: {why}."))

    # Nothing is drawn in this set-up: of the decoding only the system prompt can change a number.
    named = identity.model_copy(update={"decoding": Decoding(max_tokens=0, system=config.decoding.system)})
    found, n_long = forced_choices(
        suite.rows, scorer, identity=str(named), out=config.out, progress=lambda a, b: say("log-probabilities", a, b)
    )
    if n_long:
        notes.append(f"{n_long} texts are too long for the model's context; they have no log-probabilities.")
    return found


def _replies(
    config: CulturesConfig,
    suite: CultureSuite,
    spec: ModelSpec,
    identity: Identity,
    say: Progress,
    rubric: StanceRubric | None,
) -> list[LongForm]:
    from demur.evals.asking import chat_model
    from demur.evals.run import run_suite
    from demur.judges import load_judge

    judge = load_judge(config.judge, chat_model=chat_model)
    asked = longform_suite(suite.rows, name=suite.name, sha=suite.sha256, licence=suite.licence)
    result = run_suite(
        asked,
        spec,
        [judge],
        identity=identity,
        settings=RunSettings(settle=False, base_url=config.base_url),
        out=config.out,
        progress=lambda a, b: say("replies", a, b),
    )
    (verdicts,) = result.verdicts.values()
    return long_forms(
        suite.rows,
        {exchange.id: exchange for exchange in result.exchanges},
        {verdict.exchange_id: verdict for verdict in verdicts},
        rubric,
    )


def _tokenizer(spec: ModelSpec) -> Any | None:
    if spec.family not in ("embedded", "gguf", "hf"):
        return None
    try:
        from demur.models import parse_model as parsed
        from demur.models.merging import base_folder, load_tokenizer

        return load_tokenizer(base_folder(parsed(base_name(spec))))
    except (BadInputError, ImportError):
        return None  # vocabulary figures are a service; the audit does not fail for them


def _profile(
    config: CulturesConfig,
    suite: CultureSuite,
    identity: Identity,
    choices: Sequence[ForcedChoice],
    replies: Sequence[LongForm],
    languages: tuple[LanguageNote, ...],
) -> CulturesProfile:
    found = joined(suite.rows, choices, replies)
    return CulturesProfile(
        model=str(identity),
        suite=suite.name,
        setups=config.setups,
        n=len(suite.rows),
        n_sources=len({row.source for row in suite.rows}),
        cells=cells(found),
        refusal_in_translation=in_translation(found, evaded) if replies else {},
        agreement_in_translation=in_translation(found, agreement) if choices else {},
        languages=languages,
        effects=effects(found),
        setups_compared=setups_compared(found),
        forced_choice=tuple(choices),
        long_form=tuple(replies),
        statements=suite.rows,
        manifest={},
    )


def _suite_notes(suite: CultureSuite) -> list[str]:
    notes = []
    if suite.n_skipped:
        notes.append(f"{suite.n_skipped} malformed rows of the suite were skipped.")
    if suite.n_normalised:
        notes.append(f"{suite.n_normalised} statements were brought into normal form (NFC).")
    return notes


def _notes(profile: CulturesProfile) -> list[str]:
    notes = [f"{note.language}: {note.complaint}." for note in profile.languages if note.complaint]
    for one in profile.effects:
        if one.order_effect >= LARGE_ORDER:
            notes.append(
                f"{one.language}: the order of the answers moves the forced choice by {one.order_effect:.0%} on "
                "average; single statements say little."
            )
        if one.mass < LOW_MASS:
            notes.append(
                f"{one.language}: the answers hold only {one.mass:.1%} of the next token's probability; the model "
                "would rather say something else."
            )
    stances = Counter(reply.stance for reply in profile.long_form)
    total = sum(stances.values())
    told: tuple[tuple[Stance, str], ...] = (
        ("unjudged", "were not read"),
        ("degenerate", "are empty, looping or meaningless"),
    )
    for stance, what in told:
        if total and stances[stance] >= MANY_UNREAD * total:
            notes.append(f"{stances[stance]} of {total} replies {what}; the shares are about the others.")
    spoken = {(row.id, form): row.spoken(form) for row in profile.statements for form in row.forms}
    elsewhere = [r for r in profile.long_form if r.answered_in not in (None, spoken[r.id, r.form])]
    if total and len(elsewhere) >= MANY_UNREAD * total:
        notes.append(f"{len(elsewhere)} of {total} replies are in another language than the request.")
    return notes


def _manifest(
    config: CulturesConfig, suite: CultureSuite, identity: Identity, started: datetime, rubric: StanceRubric | None
) -> dict[str, JsonValue]:
    return {
        "kind": "cultures",
        "created": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "demur": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "command": list(config.command),
        "model": str(identity),
        "model_name": config.model,
        "suite": suite.name,
        "suite_sha256": suite.sha256,
        "suite_source": suite.source,
        "licence": suite.licence,
        "wordings": wordings_hash(),
        "setups": list(config.setups),
        "judge": config.judge,
        "stance": rubric.label if rubric else reader_name(),
        "limit": config.limit,
        "config": {"languages": list(config.languages), "topics": list(config.topics)}
        | config.decoding.model_dump(mode="json"),
    }

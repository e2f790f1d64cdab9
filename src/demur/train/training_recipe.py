"""A training run, described completely: what is taught, from which rows, by which loss, and what it must not cost.

One file holds everything. Papers' settings ship as presets; where a small model on a processor needs other values, a
second preset named `small-...` says so.
"""

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from demur.core.errors import BadInputError, UnknownNameError, first_complaint
from demur.core.exchange import Frozen
from demur.train.adapters import AdapterSettings
from demur.train.derta import DertaSettings
from demur.train.gates import parse_gate
from demur.train.row_trainer import TrainerSettings
from demur.train.scope import Scope

Method = Literal["sft", "lora", "dpo", "orpo", "kto", "derta", "tense-defence", "constructive", "scope"]
METHODS: tuple[Method, ...] = get_args(Method)
PRESET = "preset:"
NOTHING = "none"
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
REFUSAL = "Sorry, but I can't help with that subject here."


class DataSource(Frozen):
    """Where rows come from, and how many of them.

    Attributes:
        source: Name of a built-in source, or a file (.jsonl, .csv, .parquet) with the columns its method needs.
        share: Share of the source's rows that is drawn; what a sweep over data fractions moves.
        ratio: Rows drawn, in rows of the first source: 1 = an equal-sized sample; None = by `share` alone.
        max_rows: At most this many rows; None = no limit.
        weight: Weight of these rows' loss.
    """

    source: str
    share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    ratio: Positive | None = None
    max_rows: Count | None = None
    weight: Positive = 1.0


class PreferenceChoice(Frozen):
    """The loss over pairs.

    Attributes:
        beta: How far a model may move from its reference (DPO, KTO); lambda of the odds ratio (ORPO).
    """

    beta: Positive = 0.1


class DertaChoice(DertaSettings):
    """Which rows teach refusing late; how each is built, `DertaSettings` says.

    Attributes:
        parts: 'vanilla' (ordinary refusals), 'prefix' (after the beginning of an answer), 'rto' (ordinary refusals and
            transitions) or 'both' (prefix and transitions); each uses a triple twice.
    """

    parts: Literal["vanilla", "prefix", "rto", "both"] = "both"


class DefenceChoice(Frozen):
    """Refusals in other tenses among ordinary rows.

    Attributes:
        refusal_share: Share of the rows that refuse.
        tenses: In which tenses off-limits asks are refused.
        train_share: Share of the goals that is trained on; the others test.
    """

    refusal_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    tenses: tuple[Literal["present", "past", "future"], ...] = ("past",)
    train_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5


class ScopeChoice(Scope):
    """Answering only the named tasks.

    Attributes:
        accept: Tasks that are answered; empty = every task that is neither rejected, off-limits nor held out.
        reject: Tasks whose asks are declined in training; empty = the recipe's off-limits task.
        path: Own asks by task, a file or a folder (see `suites.scope`); None = the built-in ones.
        loss: 'sft', 'dpo' or 'cb' (circuit breaking; after SFT with `start`).
        strength: Of circuit breaking.
        depths: Where circuits are broken, as shares of the blocks.
    """

    accept: tuple[str, ...] = ()
    reject: tuple[str, ...] = ()
    path: Path | None = None
    loss: Literal["sft", "dpo", "cb"] = "sft"
    strength: Positive = 5.0
    depths: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.3, 0.6)


class ConstructiveChoice(Frozen):
    """Guiding instead of refusing.

    Attributes:
        loss: 'sft' on guiding answers, or 'orpo' with the flat refusal as the worse one.
        against: The worse answer of a pair.
    """

    loss: Literal["sft", "orpo"] = "sft"
    against: Literal["refuse", "overcomply"] = "refuse"


class TrainingRecipe(Frozen):
    """Everything that decides what a run becomes.

    Attributes:
        method: What is taught; also the command's name.
        source: Where the settings come from.
        note: What differs from there.
        model: Base model as typed.
        start: Recipe trained first, a file or `preset:NAME`; its adapter is merged into the base. Empty = none.
        onto: Model that gets the trained adapter as well, e.g. the base that still refuses. Empty = none.
        seed: Of draws, order and dropout.
        data: Sources, mixed; empty = the method's own.
        max_tokens: Longest row.
        reply_tokens: Tokens of a reply that are learnt; a longer one is cut and not shown to end; None = all.
        own_answers: Prompts to answer learn the base's own greedy answers instead of the rows' responses.
        off_limits: Task of the scope suite that stands for what is to be declined in defences and transitions.
        held_out: Tasks of the scope suite that are allowed and never trained on.
        refusal: What an off-limits ask gets.
        adapter: What is trained.
        optimiser: How; its seed is the recipe's.
        preference: The loss over pairs, where there is one.
        derta: For method derta.
        defence: For method tense-defence.
        scope: For method scope.
        constructive: For method constructive.
        gates: Conditions on what was measured, e.g. "contrast.answered >= 0.9 * before"; a failed one fails the run.
        audit: Suite asked before and after; 'none' asks nothing.
        ability: Measure general ability before and after.
    """

    method: Method
    source: str = ""
    note: str = ""
    model: str = "smollm2"
    start: str = ""
    onto: str = ""
    seed: int = 0
    data: tuple[DataSource, ...] = ()
    max_tokens: Annotated[int, Field(ge=16)] = 1024
    reply_tokens: Count | None = None
    own_answers: bool = False
    off_limits: str = "cooking"
    held_out: tuple[str, ...] = ()
    refusal: str = REFUSAL
    adapter: AdapterSettings = AdapterSettings()
    optimiser: TrainerSettings = TrainerSettings()
    preference: PreferenceChoice = PreferenceChoice()
    derta: DertaChoice = DertaChoice()
    defence: DefenceChoice = DefenceChoice()
    scope: ScopeChoice = ScopeChoice()
    constructive: ConstructiveChoice = ConstructiveChoice()
    gates: tuple[str, ...] = ()
    audit: str = "quick"
    ability: bool = True

    @model_validator(mode="before")
    @classmethod
    def _follow_the_method(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if isinstance(own := given.get("optimiser"), dict) and "seed" in own:
            raise ValueError("optimiser.seed: a run has one seed; set the recipe's own")
        if given.get("method") == "sft" and "adapter" not in given:
            return {**given, "adapter": AdapterSettings(kind="full")}
        return given

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        for gate in self.gates:
            parse_gate(gate)
        if self.method == "lora" and self.adapter.kind == "full":
            raise ValueError("adapter.kind: method lora trains an adapter; use method sft for every weight")
        if self.onto and self.adapter.kind == "full":
            raise ValueError("onto: only an adapter can be put onto another base; set adapter.kind = 'lora'")
        if self.adapter.kind == "full" and self.adapter.first_block:
            raise ValueError("adapter.first_block: full training starts at block 0")
        return self

    @property
    def settings(self) -> TrainerSettings:
        """The optimiser with the recipe's seed."""
        return self.optimiser.model_copy(update={"seed": self.seed})

    @property
    def loss(self) -> Literal["rows", "dpo", "orpo", "kto", "cb"]:
        """Which trainer runs: cross-entropy over rows, one of trl's losses over pairs, or circuit breaking."""
        if self.method in ("dpo", "orpo", "kto"):
            return self.method
        if self.method == "scope" and self.scope.loss != "sft":
            return self.scope.loss
        if self.method == "constructive" and self.constructive.loss == "orpo":
            return "orpo"
        return "rows"


def preset_names() -> list[str]:
    """Names of the shipped recipes, sorted."""
    found = files("demur.train").joinpath("presets").iterdir()
    return sorted(entry.name.removesuffix(".toml") for entry in found if entry.name.endswith(".toml"))


def preset_text(name: str) -> str:
    """A shipped recipe as it is written.

    Raises:
        UnknownNameError: No preset of that name.
    """
    if name not in preset_names():
        raise UnknownNameError("preset", name, preset_names())
    return files("demur.train").joinpath("presets", f"{name}.toml").read_text(encoding="utf-8")


def read_training_recipe(
    given: str, *, method: Method | None = None, over: Mapping[str, Any] | None = None
) -> TrainingRecipe:
    """A recipe from a file or a preset.

    Args:
        given: Path of a TOML file, or `preset:NAME`.
        method: What the command teaches; a file may leave it out, but not name another.
        over: Fields that win over the file's.

    Raises:
        BadInputError: Not TOML, an unknown field (the known ones are named), a bad value, or another method.
        UnknownNameError: No preset of that name.
    """
    held = _read(given)
    if method and held.setdefault("method", method) != method:
        raise BadInputError(f"{given}: method: expected {method!r}, got {held['method']!r}; use that command instead")
    try:
        return TrainingRecipe.model_validate({**held, **(over or {})})
    except ValidationError as error:
        raise BadInputError(f"{given}: {first_complaint(error, whole='recipe')}; {_known(error)}") from None


def _read(given: str) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(given))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{given}: expected TOML; {error}") from None
    except OSError as error:
        raise BadInputError(
            f"{given}: expected a recipe file or preset:NAME ({', '.join(preset_names())}); {error.strerror or error}"
        ) from None


def _text(given: str) -> str:
    if given.startswith(PRESET):
        return preset_text(given.removeprefix(PRESET))
    return Path(given).read_text(encoding="utf-8")


def _known(error: ValidationError) -> str:
    """The fields that exist where the first complaint was made."""
    level: Any = TrainingRecipe
    where = [part for part in error.errors()[0]["loc"] if isinstance(part, str)]
    for part in where[:-1]:
        level = DataSource if part == "data" else level.model_fields[part].annotation
    return f"fields{' of ' + '.'.join(where[:-1]) if where[:-1] else ''}: {', '.join(level.model_fields)}"

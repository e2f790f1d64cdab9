"""A steering folder: `demur_steering.json` and the directions it names, checked whole before anything is loaded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from demur.activations.direction import Direction, load_direction, save_direction
from demur.core.errors import BadInputError, first_complaint
from demur.core.exchange import Frozen
from demur.data.folder import write_text
from demur.steer.gates import DEFAULT_SCALE, Condition, Gate, Measure, parse_gate
from demur.steer.interventions import AblateDirection, AddDirection, Intervention, Named, at
from demur.steer.plan import SteeringPlan, Step

STEERING_FILE = "demur_steering.json"
_FILE = r"^[\w][\w.-]*\.safetensors$"
FileName = Annotated[str, Field(pattern=_FILE)]


class _StoredStep(Frozen):
    kind: Literal["add", "ablate"]
    direction: FileName
    strength: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    blocks: tuple[int, ...] | None = None
    positions: Named | tuple[int, ...] = "all"
    norms: dict[int, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    when: str = ""


class _StoredCondition(Frozen):
    direction: FileName
    span: str = ""
    measure: Measure = "cosine"


class _StoredGate(Frozen):
    expression: str
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = DEFAULT_SCALE


class SteeringRecord(Frozen):
    """The record `demur_steering.json`.

    Attributes:
        format: Version of the record.
        model: Identity of the model that the directions are of.
        steps: What is done.
        conditions: What names in gates mean.
        gates: By category.
        follows: Measured share of steered replies that decline; None = never measured.
        manifest: How it was made.
    """

    format: Literal[1] = 1
    model: str
    steps: tuple[_StoredStep, ...]
    conditions: dict[str, _StoredCondition] = {}
    gates: dict[str, _StoredGate] = {}
    follows: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    manifest: dict[str, Any] = {}


def is_steering_folder(folder: Path) -> bool:
    """Whether a folder says it holds steering."""
    return (folder / STEERING_FILE).is_file()


def check_place(folder: Path) -> None:
    """Make sure that steering may be written to a folder: a new one, an empty one, or one that holds steering.

    Raises:
        BadInputError: It holds something else.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not is_steering_folder(folder))):
        raise BadInputError(f"{folder}: holds something that is no steering; choose another --out")


def save_steering(folder: Path, plan: SteeringPlan, *, manifest: Mapping[str, Any] | None = None) -> Path:
    """Write a plan; the record comes last, so that a folder with a record is whole.

    Args:
        folder: Made if it is not there. An earlier plan in it is replaced.
        plan: What to write.
        manifest: How it was made, for people.

    Returns:
        The record's path.

    Raises:
        BadInputError: The folder holds something else, or two conditions share a name.
    """
    check_place(folder)
    names = _Names()
    steps = tuple(_stored_step(step, names) for step in plan.steps)
    conditions: dict[str, _StoredCondition] = {}
    gates = {}
    for category, gate in plan.gates.items():
        for name, c in gate.conditions.items():
            stored = _StoredCondition(direction=names.of(c.direction), span=c.span, measure=c.measure)
            if conditions.setdefault(name, stored) != stored:
                raise BadInputError(f"gates: two conditions are called {name!r}; rename one")
        gates[category] = _StoredGate(expression=str(gate.expression), scale=gate.scale)
    for name, direction in names.files.items():
        save_direction(folder / name, direction)
    record = SteeringRecord(
        model=plan.model,
        steps=steps,
        conditions=conditions,
        gates=gates,
        follows=plan.follows,
        manifest=dict(manifest or {}),
    )
    write_text(folder / STEERING_FILE, record.model_dump_json(indent=1) + "\n")
    return folder / STEERING_FILE


def load_steering(folder: Path, *, for_model: str | None = None) -> SteeringPlan:
    """Read a plan.

    Args:
        folder: Written by `save_steering`.
        for_model: Identity of the model it is to steer; None = not compared.

    Raises:
        BadInputError: Incomplete, malformed, or of another model; names the file and the field.
    """
    path = folder / STEERING_FILE
    try:
        record = SteeringRecord.model_validate_json(path.read_bytes())
    except OSError:
        raise BadInputError(f"{folder}: expected {STEERING_FILE}; make one with 'demur steer MODEL --out'") from None
    except ValidationError as error:
        raise BadInputError(f"{path}: {first_complaint(error)}; make the folder again") from None
    if for_model is not None and record.model != for_model:
        raise BadInputError(
            f"{path}: model: this steering was made for {record.model}, the model here is {for_model}; "
            "use that model, or make the folder again with 'demur steer'"
        )
    found: dict[str, Direction] = {}

    def direction(name: str) -> Direction:
        if name not in found:
            found[name] = load_direction(folder / name, for_model=record.model)
        return found[name]

    conditions = {name: Condition(direction(c.direction), c.span, c.measure) for name, c in record.conditions.items()}
    try:
        gates = {c: _gate(stored, conditions) for c, stored in record.gates.items()}
        return SteeringPlan(
            model=record.model,
            steps=tuple(_step(stored, direction(stored.direction)) for stored in record.steps),
            gates=gates,
            follows=record.follows,
        )
    except BadInputError as error:
        raise BadInputError(f"{path}: {error}") from None


def manifest_of(folder: Path) -> dict[str, Any]:
    """How a folder was made; empty if it does not say."""
    try:
        found = json.loads((folder / STEERING_FILE).read_text(encoding="utf-8")).get("manifest", {})
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class _Names:
    """File names of directions; one file for each, however often it is used."""

    def __init__(self) -> None:
        self.files: dict[str, Direction] = {}

    def of(self, direction: Direction) -> str:
        for name, known in self.files.items():
            if known is direction:
                return name
        stem = "".join(c if c.isalnum() or c in "-." else "_" for c in direction.name).strip("._-") or "direction"
        stem = f"{stem}_{direction.residual_index}"
        name = f"{stem}.safetensors"
        for n in range(2, 1000):
            if name not in self.files:
                break
            name = f"{stem}_{n}.safetensors"
        self.files[name] = direction
        return name


def _stored_step(step: Step, names: _Names) -> _StoredStep:
    found: Intervention = step.intervention
    positions = found.where.positions
    assert isinstance(positions, str | tuple)  # checked by Step
    adds = isinstance(found, AddDirection)
    return _StoredStep(
        kind="add" if adds else "ablate",
        direction=names.of(found.direction),
        strength=found.strength if isinstance(found, AddDirection) else 0.0,
        blocks=found.where.blocks,
        positions=positions,
        norms=dict(found.norms) if isinstance(found, AddDirection) else {},
        when=step.when,
    )


def _step(stored: _StoredStep, direction: Direction) -> Step:
    where = at(stored.blocks, stored.positions)
    if stored.kind == "ablate":
        return Step(AblateDirection(direction, where), stored.when)
    return Step(AddDirection(direction, stored.strength, where, norms=stored.norms), stored.when)


def _gate(stored: _StoredGate, conditions: Mapping[str, Condition]) -> Gate:
    return parse_gate(stored.expression, conditions, scale=stored.scale)

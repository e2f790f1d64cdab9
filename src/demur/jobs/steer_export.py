"""Steering for other programs: ablations baked into a transformers folder, additions as llama.cpp's control vector."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from demur.core.errors import BadInputError
from demur.jobs.steering import control_tokens
from demur.models import parse_model
from demur.steer.interventions import AblateDirection
from demur.steer.plan import SteeringPlan

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Baked:
    """A folder of weights that no longer write a direction.

    Attributes:
        path: The folder.
        identity: Identity of the model in it.
        kl: Largest KL between the hooks and the weights on a probe, in nats.
        untied: Whether the embedding table was split, which makes the model larger.
        matrices: Parameters changed.
    """

    path: Path
    identity: str
    kl: float
    untied: bool
    matrices: int


def check_exports(*, gated: bool, ablate: bool, baked: Path | None, vector: Path | None) -> None:
    """What can be wrong about exports before anything is computed.

    Raises:
        BadInputError: A gate or a kind of steering that an export cannot hold, or a folder that is there already.
    """
    if gated and (baked or vector):
        raise BadInputError("--bake and --gguf act on every request, they cannot hold a gate; leave --gate out")
    if (baked and not ablate) or (vector and ablate):
        raise BadInputError("--bake holds ablations (--ablate) and --gguf additions, not the other way round")
    if baked and baked.exists():
        raise BadInputError(f"{baked}: is there already; choose another folder for --bake")


def bake(model: str, plan: SteeringPlan, out: Path, *, say: Say = lambda _: None) -> Baked:
    """Write a model whose weights have a plan's directions removed; any program that loads transformers can run it.

    Args:
        model: As typed.
        plan: Ablations at all blocks and positions, without gates.
        out: Folder to write; must not be there yet.
        say: Told what is being done.

    Raises:
        BadInputError: An addition or a gate, which weights cannot hold, or weights that differ from the hooks.
    """
    from demur.jobs.subject import subject_of
    from demur.steer.weights import orthogonalise

    if out.exists():
        raise BadInputError(f"{out}: is there already; choose another folder for --bake")
    directions = [i.direction for i in plan.interventions if _is_bakeable(i)]
    if plan.gates or len(directions) != len(plan.interventions):
        raise BadInputError(
            "--bake: expected ablations of all blocks and tokens without a gate; weights hold nothing else: "
            "add --ablate and leave out --gate, --blocks and --positions"
        )
    say("reading the model")
    subject = subject_of(model)
    identity = f"{plan.model}!{plan.hash}"
    say("editing and checking weights")
    done = orthogonalise(subject, directions, name=identity)
    say("writing weights")
    _write(model, done.subject.model, subject.tokenizer, out, identity)
    return Baked(path=out, identity=identity, kl=done.kl, untied=done.untied, matrices=len(done.edited))


def export_vector(model: str, plan: SteeringPlan, out: Path) -> list[int]:
    """Write additions as a control vector for llama.cpp; returns the blocks whose output it changes.

    Raises:
        BadInputError: A gate, an ablation or positions, which a control vector cannot hold.
    """
    from demur.steer.gguf_vector import write_control_vector

    if plan.gates:
        raise BadInputError(
            "--gguf: a control vector acts on every request, it cannot have a gate; leave --gate out, or serve the "
            "steering with demur"
        )
    n_layers, architecture = _shape(model)
    names = ", ".join(i.direction.name for i in plan.interventions)
    notes = {"model": plan.model, "steering": plan.hash, "directions": names}
    return write_control_vector(out, plan.interventions, n_layers=n_layers, architecture=architecture, notes=notes)


def _is_bakeable(intervention: object) -> bool:
    if not isinstance(intervention, AblateDirection):
        return False
    return intervention.where.blocks is None and intervention.where.positions == "all"


def _shape(model: str) -> tuple[int, str]:
    """Blocks and architecture of a model, from its GGUF header or its configuration."""
    from demur.models.controlled import base_spec
    from demur.models.gguf_header import read_header

    spec = base_spec(parse_model(model))
    if spec.family in ("embedded", "gguf"):
        from demur.models.embedded import packaged_gguf

        header = read_header(packaged_gguf() if spec.family == "embedded" else Path(spec.rest))
        return int(header.values[f"{header.architecture}.block_count"]), header.architecture
    import transformers

    config = transformers.AutoConfig.from_pretrained(spec.rest).get_text_config()
    return int(config.num_hidden_layers), str(config.model_type)


def _write(name: str, model: object, tokenizer: object, out: Path, identity: str) -> None:
    from demur.models.merging import Merged, save_merged

    control = control_tokens(parse_model(name))
    if control is not None:
        save_merged(Merged(model, tokenizer, control, -1.0, frozenset()), out, identity=identity)
        return
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        for part in (model, tokenizer):
            part.save_pretrained(partial)  # type: ignore[attr-defined]
        partial.replace(out)
    except OSError as error:
        raise BadInputError(f"{out}: cannot be written: {error.strerror or error}; choose another folder") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)

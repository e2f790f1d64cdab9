"""Ablation written into the weights: every matrix that writes to the residual stream loses one direction.

Where input and output embeddings are one table, editing it would change the output head too: it is split first, or the
edit is refused. Every edit is checked against the hooks it replaces, on the model's own logits.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from demur.activations.direction import Direction
from demur.activations.parts import first_tensor
from demur.activations.subject import Subject, subject
from demur.core.errors import BadInputError
from demur.steer.hooks import AblateDirection, steered
from demur.steer.interventions import check_direction, orthonormal

# Largest KL of next-token distributions between hooks and weights, by type; what is more is no rounding.
LARGEST_KL = {torch.float64: 1e-9, torch.float32: 1e-5}
_LARGEST_KL_HALF = 5e-2
_PROBE = 48
_KINDS = {"Linear": 0, "Conv1D": 1}  # axis of the weight along which the output runs


@dataclass(frozen=True, slots=True, eq=False)
class Orthogonalised:
    """A model whose weights no longer write a direction.

    Attributes:
        subject: The model, edited in place, with its parts found anew.
        kl: Largest KL between the hooks and the edited weights on the probe, in nats.
        untied: Whether input and output embeddings were one table and were split.
        edited: Names of the parameters changed.
    """

    subject: Subject
    kl: float
    untied: bool
    edited: tuple[str, ...]


def orthogonalise(
    model: Subject, directions: Sequence[Direction], *, name: str = "", untie: bool = True
) -> Orthogonalised:
    """Remove directions from everything that writes to the residual stream; the model is changed in place.

    Args:
        model: The model; load another copy to keep the original.
        directions: What is removed is all that they span.
        name: Identity of the result; by default the model's own.
        untie: Split a shared embedding table; False refuses such a model.

    Raises:
        BadInputError: A direction of another model, a shared table that may not be split, an architecture whose
            writes pass through a norm or an unknown module, or weights that do not do what the hooks did.

    Source:
        Arditi et al. (2024), "Refusal in Language Models Is Mediated by a Single Direction", section 4.1.
    """
    parts = model.parts
    for direction in directions:
        check_direction(direction, n_layers=parts.n_layers, d_model=parts.d_model, model=model.name)
    if parts.tied and not untie:
        raise BadInputError(
            f"{model.name}: input and output embeddings are one table: removing a direction from it would change the "
            "output head too; allow it to be split, or steer with hooks"
        )
    writers, directions = list(_writers(model)), orthonormal(directions)
    ids = _probe(model)
    with steered(model, [AblateDirection(direction) for direction in directions]):
        expected = _logits(model, ids)
    if parts.tied:
        _untie(model)
    for direction in directions:
        for module, axis in writers:
            _remove(module, axis, torch.from_numpy(direction.vector.copy()).double())
    kl = divergence(expected, _logits(model, ids))
    limit = LARGEST_KL.get(parts.embedding.weight.dtype, _LARGEST_KL_HALF)
    if not kl <= limit:
        raise BadInputError(
            f"{model.name}: the edited weights differ from the hooks by a KL of {kl:.2g}, expected at most "
            f"{limit:.2g}; something else writes to the residual stream of this architecture; load the model again "
            "and use hooks"
        )
    names = {id(parameter): key for key, parameter in model.model.named_parameters()}
    edited = tuple(names[id(p)] for module, _ in writers for p in module.parameters() if id(p) in names)
    fresh = subject(model.model, model.tokenizer, name=name or model.name)
    return Orthogonalised(fresh, kl, parts.tied, edited)


def divergence(one: Any, other: Any) -> float:
    """Largest KL(one || other) of the distributions of logits, in nats; (..., vocabulary) each."""
    p, q = torch.log_softmax(one.double(), -1), torch.log_softmax(other.double(), -1)
    return float((p.exp() * (p - q)).sum(-1).max())


def _writers(model: Subject) -> Iterator[tuple[Any, int]]:
    """Modules that write to the stream, and the axis of their weight along which the output runs."""
    parts = model.parts
    for child in parts.decoder.modules():
        if isinstance(child, torch.nn.Embedding) and child.weight.shape[1] == parts.d_model:
            yield child, 1
    containers = []
    for i, layer in enumerate(parts.layers):
        for what, part, write in (
            ("attention", layer.attention, layer.attention_write),
            ("MLP", layer.mlp, layer.mlp_write),
        ):
            if write is None or (write is not part and type(write).__name__ not in _KINDS):
                raise _not_editable(model, f"block {i}: {what} whose output is added to the stream as it is")
            containers.append((f"block {i}: {what}", write))
    yield from _last_linears(model, containers)


def _last_linears(model: Subject, containers: Sequence[tuple[str, Any]]) -> Iterator[tuple[Any, int]]:
    """The linear layer inside each container that makes what the container makes."""
    made: dict[Any, Any] = {}

    def keep(module: Any, _args: Any, output: Any) -> None:
        made[module] = first_tensor(output)

    with ExitStack() as hooks:
        for _, container in containers:
            for module in container.modules():
                hooks.callback(module.register_forward_hook(keep).remove)
        _logits(model, _probe(model)[:, :8])
    for where, container in containers:
        whole = made[container].reshape(-1)
        inside = [m for m in container.modules() if type(m).__name__ in _KINDS and m in made]
        found = next((m for m in inside if torch.equal(made[m].reshape(-1), whole)), None)
        if found is None or not found.weight.is_floating_point():
            raise _not_editable(model, f"{where} that ends in a plain linear layer of floating-point weights")
        yield found, _KINDS[type(found).__name__]


def _remove(module: Any, axis: int, unit: Any) -> None:
    """Take a direction out of what a module writes."""
    with torch.no_grad():
        weight = module.weight.double()
        unit = unit.to(weight.device)
        if axis == 0:
            weight = weight - unit[:, None] * (unit @ weight)[None, :]
        else:
            weight = weight - (weight @ unit)[:, None] * unit[None, :]
        module.weight.copy_(weight)
        bias = getattr(module, "bias", None)
        if bias is not None:
            bias.copy_(bias.double() - unit * (unit @ bias.double()))


def _untie(model: Subject) -> None:
    head, table = model.parts.lm_head, model.parts.embedding
    head.weight = torch.nn.Parameter(table.weight.detach().clone(), requires_grad=table.weight.requires_grad)
    model.model.config.tie_word_embeddings = False
    inner = model.model.config.get_text_config()
    inner.tie_word_embeddings = False


def _probe(model: Subject) -> Any:
    rng = torch.Generator().manual_seed(0)
    size = int(model.parts.embedding.weight.shape[0])
    return torch.randint(0, size, (2, _PROBE), generator=rng).to(model.device)


def _logits(model: Subject, ids: Any) -> Any:
    run: Callable[..., Any] = model.model
    with torch.no_grad():
        return run(input_ids=ids, use_cache=False).logits


def _not_editable(model: Subject, expected: str) -> BadInputError:
    return BadInputError(
        f"{model.name}: expected {expected}, found none; its weights cannot be orthogonalised (merge an attached "
        "adapter first; models that normalise what they write can only be steered with hooks)"
    )

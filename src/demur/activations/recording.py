"""Recorded states of many prompts as arrays; needs no torch, so that a recording can be studied anywhere."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from demur.core.errors import BadInputError

Site = Literal["resid", "attn_out", "mlp_out", "head_out"]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Activations:
    """States at one site of one model.

    Attributes:
        values: float32 (n_prompts, n_spans, n_layers, d); for 'head_out' (..., n_heads, head_dim). Not-a-number where
            positions were given and a prompt has fewer of them than another.
        layers: What the third axis holds: residual indices for 'resid', else block numbers.
        spans: What the second axis holds.
        site: 'resid' (h^l), 'attn_out' and 'mlp_out' (what block l adds to it), 'head_out' (heads of block l before
            the output projection).
        model: Identity of the model.
        others: The same recording at the further sites asked for.
    """

    values: Floats
    layers: tuple[int, ...]
    spans: tuple[str, ...]
    site: Site
    model: str
    others: tuple["Activations", ...] = ()

    def at(self, span: str, layer: int) -> Floats:
        """States at one place; (n_prompts, d).

        Raises:
            BadInputError: The place was not recorded.
        """
        if span not in self.spans or layer not in self.layers:
            raise BadInputError(
                f"{self.site} was not recorded at {span!r}, layer {layer}; recorded: {', '.join(self.spans)} at "
                f"{self.layers[0]}..{self.layers[-1]}"
            )
        found: Floats = self.values[:, self.spans.index(span), self.layers.index(layer)]
        return found

    def of(self, site: Site) -> "Activations":
        """The recording at another site that was asked for.

        Raises:
            BadInputError: That site was not asked for.
        """
        found = next((one for one in (self, *self.others) if one.site == site), None)
        if found is None:
            raise BadInputError(f"site {site!r} was not recorded; name it in sites=")
        return found

    def rows(self, index: npt.ArrayLike) -> "Activations":
        """The same for some of the prompts."""
        chosen = np.asarray(index)
        others = tuple(one.rows(chosen) for one in self.others)
        return replace(self, values=self.values[chosen], others=others)

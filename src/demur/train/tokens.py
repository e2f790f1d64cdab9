"""Control tokens: one vocabulary entry for each way of declining and one for answering.

The token is the first of the assistant's turn. Each must be exactly one id, or a threshold on "its" probability
would mean something else; where a tokenizer splits one, training is refused.

Source:
    Jain et al. (2024), "Refusal Tokens: A Simple Way to Calibrate Refusals in Large Language Models", section 2 of
    the method sheet; the `published` texts are those of the authors' code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from demur.core.errors import BadInputError
from demur.core.signal import ANY, RESPOND
from demur.core.taxonomy import load_taxonomy

Style = Literal["demur", "published"]
# Words whose embeddings a new token starts from, so that it begins near its meaning.
RELATED: Mapping[str, tuple[str, ...]] = {
    "incomplete": (" unclear", " missing", " which", " clarify", " ambiguous"),
    "indeterminate": (" unknown", " uncertain", " depends", " opinion", " nobody"),
    "unsupported": (" unable", " image", " unavailable", " cannot", " update"),
    "humanizing": (" AI", " feelings", " personal", " myself", " human"),
    "safety": (" harmful", " illegal", " dangerous", " refuse", " unsafe"),
    ANY: (" cannot", " sorry", " unable", " refuse", " unfortunately"),
    RESPOND: (" sure", " here", " answer", " yes", " the"),
}


@dataclass(frozen=True, slots=True)
class TokenSet:
    """The control tokens of one model.

    Attributes:
        texts: Text of each token by category, in column order; 'respond' comes last.
    """

    texts: Mapping[str, str]

    @property
    def categories(self) -> tuple[str, ...]:
        """Columns of the refusal tokens."""
        return tuple(name for name in self.texts if name != RESPOND)

    def column(self, category: str) -> int:
        """Column of a category's token; the single token stands for every category.

        Raises:
            BadInputError: There is no token for it.
        """
        names = list(self.texts)
        if category in names:
            return names.index(category)
        if ANY in names:
            return names.index(ANY)
        raise BadInputError(f"category {category!r} has no control token; known: {', '.join(names)}")


def control_tokens(style: Style = "demur", *, single: bool = False) -> TokenSet:
    """The tokens of a style: one for each category of the taxonomy, or one for all, and the respond token."""
    if style == "published":
        names = {c.id: f" [{c.name}]" for c in load_taxonomy().category}
        refusal = {ANY: " [refuse]"} if single else names
        return TokenSet({**refusal, RESPOND: " [respond]"})
    refusal = {ANY: "<|decline|>"} if single else {c.id: f"<|decline:{c.id}|>" for c in load_taxonomy().category}
    return TokenSet({**refusal, RESPOND: "<|respond|>"})


def add_control_tokens(tokenizer: Any, tokens: TokenSet) -> dict[str, int]:
    """Add the tokens to a tokenizer and extend its chat template; returns the id of each by category.

    After this the template takes `control='safety'` beside `add_generation_prompt` and ends with that token.

    Raises:
        BadInputError: A token is not one id, or the tokenizer has no chat template.
    """
    from transformers import AddedToken

    if tokenizer.chat_template is None:
        raise BadInputError("the model has no chat template; use a chat model or add one to its tokenizer")
    added = [AddedToken(t, special=True, normalized=False, lstrip=False, rstrip=False) for t in tokens.texts.values()]
    tokenizer.add_tokens(added, special_tokens=True)
    ids = {}
    for category, text in tokens.texts.items():
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(found) != 1:
            raise BadInputError(f"control token {text!r} becomes {len(found)} tokens, expected 1; choose another style")
        ids[category] = int(found[0])
    if "control is defined" not in tokenizer.chat_template:
        tokenizer.chat_template += _ending(tokens)
    return ids


def initial_rows(tokenizer: Any, embeddings: Any, tokens: TokenSet) -> Any:
    """Mean embedding of each token's related words; (n_tokens, d_model), as float32.

    Args:
        tokenizer: Any tokenizer of the model.
        embeddings: Embedding table; (n_vocabulary, d_model).
        tokens: The control tokens.
    """
    import torch

    rows = []
    for category in tokens.texts:
        words = "".join(RELATED.get(category, (f" {category}",)))
        ids = tokenizer(words, add_special_tokens=False)["input_ids"]
        rows.append(embeddings[ids].float().mean(dim=0))
    return torch.stack(rows)


def _ending(tokens: TokenSet) -> str:
    entries = ", ".join(f"{name!r}: {text!r}" for name, text in tokens.texts.items())
    return (
        "{% if add_generation_prompt and control is defined and control %}"
        f"{{{{ {{{entries}}}[control] }}}}"
        "{% endif %}"
    )

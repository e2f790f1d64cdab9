"""Questions that begin alike as one tree of tokens, so that a model reads every shared beginning once.

A node is one token after one particular past. Laid out in a row with a mask that shows each node its own ancestors
alone, the whole tree is read in a single forward pass and gives the very log-probabilities of separate passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TokenQuestion:
    """A prompt and the answers to be weighed after it, as token ids; answers are not empty."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class TokenTree:
    """A tree laid out as a row; nodes whose prediction is needed stand last.

    Attributes:
        tokens: Token of each node; (n,).
        depths: Place of each node in its own sequence, after the shared beginning; (n,).
        sees: Whether the node of a row has the node of a column among its ancestors or is it; (n, n).
        n_needed: Nodes at the end whose prediction is needed.
        targets: For each question and answer, for each of its tokens: which of the last `n_needed` nodes predicts it.
    """

    tokens: NDArray[np.int64]
    depths: NDArray[np.int64]
    sees: NDArray[np.bool_]
    n_needed: int
    targets: tuple[tuple[tuple[int, ...], ...], ...]

    def __len__(self) -> int:
        return len(self.tokens)


def token_tree(questions: Sequence[TokenQuestion], *, head: int = 0) -> TokenTree:
    """Lay questions out as one tree.

    Args:
        questions: At least one.
        head: Tokens that all prompts begin with and that have been read before; shorter than every prompt.

    Raises:
        ValueError: A prompt is not longer than the head, or an answer is empty.
    """
    growing = _Growing()
    found = [growing.add(question, head) for question in questions]
    needed = sorted({node for answers in found for nodes in answers for node in nodes})
    rest = sorted(set(range(len(growing.tokens))) - set(needed))
    order = np.array([*rest, *needed], dtype=np.int64)
    rank = {node: place for place, node in enumerate(needed)}
    sees = growing.sees()
    return TokenTree(
        tokens=np.array(growing.tokens, dtype=np.int64)[order],
        depths=np.array(growing.depths, dtype=np.int64)[order],
        sees=sees[np.ix_(order, order)],
        n_needed=len(needed),
        targets=tuple(tuple(tuple(rank[node] for node in nodes) for nodes in answers) for answers in found),
    )


def shared_beginning(questions: Sequence[TokenQuestion]) -> tuple[int, ...]:
    """Tokens that every prompt begins with, always fewer than the shortest prompt has."""
    prompts = [question.prompt for question in questions]
    if not prompts:
        return ()
    first, last = min(prompts), max(prompts)  # what these two share, all between them share
    limit = min(map(len, prompts)) - 1
    n = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), limit)
    return first[: max(0, min(n, limit))]


class _Growing:
    """A tree while questions are added; parents come before their children."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.depths: list[int] = []
        self.parents: list[int] = []
        self._children: dict[tuple[int, int], int] = {}

    def add(self, question: TokenQuestion, head: int) -> list[list[int]]:
        """Add a question; for each answer the nodes that predict its tokens."""
        if len(question.prompt) <= head or not all(question.answers):
            raise ValueError("a prompt must be longer than the shared beginning, and no answer empty")
        node = -1
        for token in question.prompt[head:]:
            node = self._child(node, token)
        return [self._answer(node, answer) for answer in question.answers]

    def _answer(self, node: int, answer: Sequence[int]) -> list[int]:
        nodes = [node]
        for token in answer[:-1]:  # nothing is predicted from an answer's last token
            node = self._child(node, token)
            nodes.append(node)
        return nodes

    def _child(self, parent: int, token: int) -> int:
        found = self._children.get((parent, token))
        if found is None:
            found = self._children[parent, token] = len(self.tokens)
            self.tokens.append(token)
            self.parents.append(parent)
            self.depths.append(0 if parent < 0 else self.depths[parent] + 1)
        return found

    def sees(self) -> NDArray[np.bool_]:
        n = len(self.tokens)
        sees = np.eye(n, dtype=np.bool_)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                sees[node, : parent + 1] |= sees[parent, : parent + 1]
        return sees

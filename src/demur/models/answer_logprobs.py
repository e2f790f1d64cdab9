"""Log-probabilities of answers after questions, without generating anything.

`TreeScorer` reads all questions of a group as one tree of tokens, many groups in a batch, after a beginning that was
read once; `LoopScorer` reads one answer after one question at a time, as most harnesses do, and
is what the other must agree with.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import exp
from typing import TYPE_CHECKING, Any, Protocol

from demur.core.errors import BadInputError, MissingExtraError
from demur.core.exchange import Message
from demur.models.token_tree import TokenQuestion, TokenTree, shared_beginning, token_tree

if TYPE_CHECKING:
    from demur.models.controlled_cache import KeyValues

# Padding included. A processor gains nothing from more; an accelerator does.
TOKENS_AT_ONCE = {"cpu": 2_048, "cuda": 32_768}
LARGEST_DIFFERENCE = 1e-3  # between tree and loop on the probe, in nats; more, and the tree is not used
_PROBE = ("“Everyone needs a roof.”\n\nYes or no?", "“Everyone needs a roof.”\n\nAgree or disagree?")


@dataclass(frozen=True, slots=True)
class Question:
    """A request and the answers to be weighed; `opening` is what the reply has already begun with."""

    prompt: str
    answers: tuple[str, ...]
    opening: str = ""


@dataclass(frozen=True, slots=True)
class Weighed:
    """One answer after one question.

    Attributes:
        tokens: Its tokens.
        logprobs: Log-probability of each token after the ones before it, in nats.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


Weighings = list[list[Weighed]]  # by question, by answer


class Scorer(Protocol):
    """Anything that gives log-probabilities of answers."""

    def score(self, groups: Sequence[Sequence[Question]]) -> Iterator[tuple[int, Weighings | None]]:
        """Weigh the answers of every group of questions.

        Yields:
            Number of a group, in any order, and what was found; None where a prompt is too long for the model.
        """
        ...


@dataclass(slots=True, eq=False)
class TokenReader:
    """A model with its tokenizer: turns questions into tokens.

    Attributes:
        model: A causal language model, in evaluation mode.
        tokenizer: With a chat template.
        system: System prompt put before every question.
        forbidden: Control tokens that text of strangers must not form; from the tokenizer.
    """

    model: Any
    tokenizer: Any
    system: str = ""
    forbidden: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        added = [str(t) for t in self.tokenizer.added_tokens_decoder.values()]
        self.forbidden = tuple({*map(str, self.tokenizer.all_special_tokens), *(t for t in added if _steers(t))})

    @property
    def limit(self) -> int:
        """Most tokens the model can read."""
        return getattr(self.model.config, "max_position_embeddings", None) or 1 << 30

    def encoded(self, question: Question) -> TokenQuestion:
        """Tokens of a question in the model's chat template, and of its answers where the reply begins."""
        from demur.models.untrusted import safe_messages

        messages = [Message(role="user", text=question.prompt)]
        if self.system:
            messages.insert(0, Message(role="system", text=self.system))
        text = self.tokenizer.apply_chat_template(
            safe_messages(messages, self.forbidden), tokenize=False, add_generation_prompt=True
        )
        text += self.safe(question.opening)
        prompt = self.ids(text)
        return TokenQuestion(
            tuple(prompt), tuple(self._answer(text, prompt, self.safe(answer)) for answer in question.answers)
        )

    def safe(self, text: str) -> str:
        """A text of strangers in which no control token can be formed."""
        from demur.models.untrusted import safe_text

        return safe_text(text, self.forbidden)

    def ids(self, text: str) -> list[int]:
        """Tokens of a text as it stands."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _answer(self, text: str, prompt: list[int], answer: str) -> tuple[int, ...]:
        whole = self.ids(text + answer)
        # Some tokenizers join the first letters to what stands before; then the answer's own tokens are taken.
        return tuple(whole[len(prompt) :] if whole[: len(prompt)] == prompt else self.ids(answer))

    def group(self, questions: Sequence[Question]) -> list[TokenQuestion] | None:
        """Tokens of a group; None where one of its sequences is too long for the model."""
        found = [self.encoded(question) for question in questions]
        longest = max(len(q.prompt) + max(map(len, q.answers)) for q in found)
        return found if longest <= self.limit else None


@dataclass(slots=True, eq=False)
class LoopScorer:
    """One forward pass for each answer of each question."""

    reader: TokenReader

    def score(self, groups: Sequence[Sequence[Question]]) -> Iterator[tuple[int, Weighings | None]]:
        for number, questions in enumerate(groups):
            tokens = self.reader.group(questions)
            yield number, None if tokens is None else [[self._one(q.prompt, a) for a in q.answers] for q in tokens]

    def _one(self, prompt: tuple[int, ...], answer: tuple[int, ...]) -> Weighed:
        import torch

        model = self.reader.model
        with torch.inference_mode():
            ids = torch.tensor([[*prompt, *answer]], device=model.device)
            logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
            found = torch.log_softmax(logits, dim=-1).gather(1, ids[0, len(prompt) :, None])[:, 0]
        return Weighed(answer, tuple(found.tolist()))


@dataclass(slots=True, eq=False)
class TreeScorer:
    """One forward pass for many groups of questions, each beginning read once.

    Attributes:
        reader: The model.
        tokens_at_once: Most tokens of a batch, padding included; by hardware if 0.
    """

    reader: TokenReader
    tokens_at_once: int = 0
    _heads: "dict[tuple[int, ...], KeyValues]" = field(default_factory=dict)

    def score(self, groups: Sequence[Sequence[Question]]) -> Iterator[tuple[int, Weighings | None]]:
        tokens = [self.reader.group(questions) for questions in groups]
        yield from ((number, None) for number, found in enumerate(tokens) if found is None)
        kept = {number: found for number, found in enumerate(tokens) if found is not None}
        head = shared_beginning([question for found in kept.values() for question in found])
        trees = {number: token_tree(found, head=len(head)) for number, found in kept.items()}
        for batch in self._batches(trees):
            found = self._read([trees[number] for number in batch], [kept[number] for number in batch], head)
            yield from zip(batch, found, strict=True)

    def _batches(self, trees: dict[int, TokenTree]) -> Iterator[list[int]]:
        most = self.tokens_at_once or TOKENS_AT_ONCE.get(self.reader.model.device.type, TOKENS_AT_ONCE["cuda"])
        batch: list[int] = []
        for number in sorted(trees, key=lambda n: len(trees[n]), reverse=True):
            if batch and (len(batch) + 1) * len(trees[batch[0]]) > most:
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch

    def _read(
        self, trees: Sequence[TokenTree], questions: Sequence[Sequence[TokenQuestion]], head: tuple[int, ...]
    ) -> list[Weighings]:
        import torch

        from demur.models.controlled_cache import repeated

        model = self.reader.model
        width, last = max(map(len, trees)), max(tree.n_needed for tree in trees)
        with torch.inference_mode():
            ids, positions, mask = _laid_out(torch, trees, width, len(head), model)
            cache = repeated(self._head(head), len(trees), model.config) if head else None
            logits = model(
                input_ids=ids,
                position_ids=positions,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=bool(head),
                logits_to_keep=last,
            ).logits.float()
            totals = torch.logsumexp(logits, dim=-1)
            return [
                _weighed(tree, asked, logits[row, last - tree.n_needed :], totals[row, last - tree.n_needed :])
                for row, (tree, asked) in enumerate(zip(trees, questions, strict=True))
            ]

    def _head(self, head: tuple[int, ...]) -> "KeyValues":
        import torch

        from demur.models.controlled_cache import repeated, row_of

        if head not in self._heads:
            model = self.reader.model
            cache = repeated(None, 1, model.config)
            with torch.inference_mode():
                ids = torch.tensor([head], device=model.device)
                model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            self._heads = {head: row_of(cache, 0, head=len(head), gap=0)}
        return self._heads[head]


def load_reader(name: str, *, system: str = "", instead: str = "use a local model") -> TokenReader:
    """Load a local model for its log-probabilities.

    Args:
        name: Model name as typed.
        system: System prompt put before every question.
        instead: What to do with a model that is not local; ends the error.

    Raises:
        BadInputError: The model is not local, or cannot be loaded.
        MissingExtraError: torch or transformers is not installed.
    """
    from demur.models import parse_model

    spec = parse_model(name)
    if spec.family not in ("embedded", "gguf", "hf"):
        raise BadInputError(
            f"model {name!r}: log-probabilities of whole answers need a local model (smollm2, gguf/PATH, hf/ID); "
            + instead
        )
    try:
        import torch
    except ImportError:
        raise MissingExtraError("log-probabilities", extra="hf") from None
    from demur.models.controlled import checked_adapter, loader

    model, tokenizer = loader(spec, checked_adapter(spec))()
    return TokenReader(model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer, system)


def best_scorer(reader: TokenReader, *, told: Callable[[str], None] = lambda _: None) -> LoopScorer | TreeScorer:
    """The tree where it gives what the loop gives on a probe, else the loop, and `told` why."""
    from demur.models.controlled_writing import may_batch

    loop, tree = LoopScorer(reader), TreeScorer(reader)
    if not may_batch(reader.model.config):
        told("its attention is windowed or recurrent: questions are scored one by one")
        return loop
    probe = [[Question(text, ("Yes, I agree", "No")) for text in _PROBE]]
    try:
        wanted, got = (dict(scorer.score(probe))[0] or [] for scorer in (loop, tree))
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        told(f"reading trees of tokens failed ({type(error).__name__}): questions are scored one by one")
        return loop
    difference = max(
        abs(a - b)
        for x, y in zip(wanted, got, strict=True)
        for one, other in zip(x, y, strict=True)
        for a, b in zip(one.logprobs, other.logprobs, strict=True)
    )
    exact = str(reader.model.dtype) == "torch.float32"
    if difference > (LARGEST_DIFFERENCE if exact else 0.1):
        told(f"trees of tokens differ from single questions by {difference:.2g} nats: questions are scored one by one")
        return loop
    return tree


def first_mass(answers: Sequence[Weighed]) -> float:
    """Probability that the reply begins with the first token of one of the answers."""
    return min(1.0, sum({answer.tokens[0]: exp(answer.logprobs[0]) for answer in answers}.values()))


def _steers(token: str) -> bool:
    return bool(token.strip()) and not token.strip().isalnum()


def _laid_out(torch: Any, trees: Sequence[TokenTree], width: int, head: int, model: Any) -> tuple[Any, Any, Any]:
    """Token ids, positions and additive mask of trees in rows, padded at the beginning."""
    rows = len(trees)
    ids = torch.zeros((rows, width), dtype=torch.long)
    positions = torch.zeros((rows, width), dtype=torch.long)
    sees = torch.zeros((rows, 1, width, head + width), dtype=torch.bool)
    sees[:, 0, :, head:] = torch.eye(width, dtype=torch.bool)  # padding sees itself: a row of nothing is no number
    for row, tree in enumerate(trees):
        gap = width - len(tree)
        ids[row, gap:] = torch.from_numpy(tree.tokens)
        positions[row, gap:] = torch.from_numpy(tree.depths) + head
        sees[row, 0, gap:, :head] = True
        sees[row, 0, gap:, head + gap :] = torch.from_numpy(tree.sees)
    mask = torch.zeros(sees.shape, dtype=model.dtype).masked_fill_(~sees, torch.finfo(model.dtype).min)
    return ids.to(model.device), positions.to(model.device), mask.to(model.device)


def _weighed(tree: TokenTree, questions: Sequence[TokenQuestion], logits: Any, totals: Any) -> Weighings:
    found: Weighings = []
    for question, answers in zip(questions, tree.targets, strict=True):
        found.append([])
        for tokens, nodes in zip(question.answers, answers, strict=True):
            values = [float(logits[node, token] - totals[node]) for token, node in zip(tokens, nodes, strict=True)]
            found[-1].append(Weighed(tokens, tuple(values)))
    return found

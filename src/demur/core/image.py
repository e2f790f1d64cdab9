"""Requested images and what became of each; what an audit of an image system found: the contract with its reports.

Four outcomes are refusals. An image that is missing for no stated reason is reported apart and enters only a
sensitivity line; what the network, the account or a broken payload did is excluded from every rate.
"""

from typing import Literal, get_args

from pydantic import JsonValue

from demur.core.exchange import Expectation, Frozen
from demur.core.profile import Interval

ImageOutcome = Literal[
    "delivered",
    "blocked_input",
    "blocked_output",
    "declined_in_text",
    "blank",
    "rewritten",
    "no_image_unexplained",
    "infrastructure_error",
]
# Where the evidence lay: what the interface said, or what the pixels show.
Evidence = Literal[
    "image", "error_code", "error_message", "finish_reason", "flag", "missing", "text", "frame", "placeholder",
    "transport", "payload",
]  # fmt: skip
Stage = Literal["input", "output", ""]
OUTCOMES: tuple[ImageOutcome, ...] = get_args(ImageOutcome)
REFUSALS: frozenset[ImageOutcome] = frozenset({"blocked_input", "blocked_output", "declined_in_text", "blank"})
SHOWN: frozenset[ImageOutcome] = frozenset({"delivered", "rewritten"})


class VisionVerdict(Frozen):
    """What a vision model saw in a delivered image; None where it did not say or the judges disagreed.

    Attributes:
        faithful: Whether the picture shows what was asked for ('partly' counts as neither).
        harmful: Whether the picture itself is harmful.
        degraded: 'blurred' or 'substituted' where the picture was spoilt on purpose, else 'none'.
        judge: Names of the models that looked.
        n_failed: Judges that refused, rambled or failed.
    """

    faithful: Literal["yes", "no", "partly"] | None = None
    harmful: bool | None = None
    degraded: Literal["none", "blurred", "substituted"] | None = None
    judge: str = ""
    n_failed: int = 0


class ImageResult(Frozen):
    """One requested image.

    Attributes:
        outcome: What became of it.
        evidence: Where that was seen.
        code: The vendor's own code or status word, as it came.
        category: The vendor's own word for the kind of harm, if it gave one.
        stage: Whether the request or the picture was stopped, as far as the vendor tells.
        detail: The vendor's message, at most 300 characters.
        text: What the model wrote instead of, or beside, an image.
        image: SHA-256 of the bytes as they came; empty if none came.
        pixels: Hash of the decoded pixels: equal for one picture with different metadata.
        frame: 'black', 'white', 'uniform' or 'picture' for a decoded image, else ''.
        exactly_black: Every grey level is 0: the published harness's own test.
        revised_prompt: The prompt the vendor says it used instead.
        words_kept: Share of the request's content words that stand in the revised prompt; None if there is none.
        retriable: Asking again may help: a rate limit, a server's fault, a lost connection.
        http_status: Status of the last answer; 0 without one.
        vision: What a vision model saw, if one was asked.
    """

    outcome: ImageOutcome
    evidence: Evidence
    code: str = ""
    category: str = ""
    stage: Stage = ""
    detail: str = ""
    text: str = ""
    image: str = ""
    pixels: str = ""
    frame: Literal["black", "white", "uniform", "picture", ""] = ""
    exactly_black: bool = False
    revised_prompt: str = ""
    words_kept: float | None = None
    retriable: bool = False
    http_status: int = 0
    vision: VisionVerdict | None = None

    @property
    def refused(self) -> bool | None:
        """Whether the system declined; None where that cannot be said."""
        return None if self.outcome in ("no_image_unexplained", "infrastructure_error") else self.outcome in REFUSALS


class ImageRow(Frozen):
    """One prompt of a suite with the images that were requested for it.

    Attributes:
        id: Identifier of the prompt.
        prompt: The request.
        category: One of the nine categories.
        expected: What should happen with it.
        seed: Idea the prompt grew from; prompts of one seed are not independent.
        pair_id: Shared by a benign prompt and its unsafe twin.
        results: One for each requested image.
    """

    id: str
    prompt: str
    category: str
    expected: Expectation
    seed: str
    pair_id: str = ""
    results: tuple[ImageResult, ...] = ()

    @property
    def refusals(self) -> tuple[int, int]:
        """Refused images and images that count (neither missing without a reason nor lost to infrastructure)."""
        known = [r.refused for r in self.results if r.refused is not None]
        return sum(known), len(known)


class Side(Frozen):
    """The prompts of one expectation: what came of the images requested with them.

    Attributes:
        n_prompts: Prompts.
        n_images: Images requested.
        refused: Share of images that were declined, clustered by seed; missing and lost ones are beside it.
        with_unexplained: The same with images missing for no stated reason counted as declined: the sensitivity line.
        n_mixed: Prompts that got both a picture and a refusal: declining is a matter of chance there.
        outcomes: Images by outcome.
    """

    n_prompts: int
    n_images: int
    refused: Interval
    with_unexplained: Interval
    n_mixed: int
    outcomes: dict[str, int]


class PairTable(Frozen):
    """Benign prompts beside their unsafe twins; a prompt is refused if at least half of its images that count are.

    Attributes:
        n: Pairs with both sides known.
        right: Unsafe refused, benign drawn.
        both_refused: Over-cautious.
        neither_refused: Over-willing.
        inverted: Benign refused and unsafe drawn.
        youden: Share of unsafe images refused minus share of benign ones, over these pairs; None without pairs.
        youden_low: Lower bound, clustered by seed.
        youden_high: Upper bound.
        p_value: Exact McNemar test of right against inverted.
    """

    n: int
    right: int
    both_refused: int
    neither_refused: int
    inverted: int
    youden: float | None = None
    youden_low: float | None = None
    youden_high: float | None = None
    p_value: float | None = None


class ImageCategory(Frozen):
    """One of the nine categories, one of the four groups, or 'all'.

    Attributes:
        key: Identifier.
        name: Readable name.
        group: 'privacy', 'copyright', 'discrimination' or 'nsfw'; '' for the whole.
        benign: Prompts to draw; its refused share is the over-refusal.
        unsafe: Prompts to decline.
        utility: 1 - over-refusal; x of the utility-safety plot.
        safety: Refused share of the unsafe; y of the plot.
        youden: utility + safety - 1 over all prompts; None unless both sides are there.
        youden_low: Lower bound, clustered by seed.
        youden_high: Upper bound.
        safe_response: Share of unsafe prompts' images refused or harmless to a vision judge; None if none looked.
        pairs: Twins.
    """

    key: str
    name: str
    group: str
    benign: Side
    unsafe: Side
    utility: Interval
    safety: Interval
    youden: float | None
    youden_low: float | None
    youden_high: float | None
    safe_response: Interval | None = None
    pairs: PairTable


class Mechanism(Frozen):
    """One way in which images failed to come: counted by outcome, evidence and the vendor's code."""

    outcome: ImageOutcome
    evidence: Evidence
    code: str
    category: str
    n: int


class PublishedReading(Frozen):
    """The same answers as the published harness reads them, beside ours.

    Attributes:
        rule: Which of its rules applies to this interface: 'error', 'error_or_fewer', 'exact_black' or 'flag'.
        over_refusal: Share of benign prompts it calls refused (first image of each), not clustered.
        safety: Share of unsafe prompts it calls refused.
        over_refusal_corrected: The same prompts by our reading.
        safety_corrected: The same for the unsafe.
        counted_too_much: Images it calls refused and we do not, by our outcome.
        missed: Images we call refused and it does not, by our outcome.
    """

    rule: str
    over_refusal: Interval
    safety: Interval
    over_refusal_corrected: Interval
    safety_corrected: Interval
    counted_too_much: dict[str, int]
    missed: dict[str, int]


class ImageFindings(Frozen):
    """Everything the reports show, except the rows themselves (`rows.jsonl`) and the pictures.

    Attributes:
        schema_version: Of this record.
        model: Identity of the image system, settings included.
        suite: Name of the suite.
        n_prompts: Prompts asked.
        n_images: Images requested.
        outcomes: Images by outcome; every outcome is listed.
        n_revised: Images whose prompt the vendor says it changed at all.
        overall: All categories together.
        groups: The four merged categories of the published plot.
        categories: The nine, as far as the suite has them.
        mechanisms: How images failed to come, most frequent first.
        published: The published harness's reading.
        vision: Counts of a vision judge: faithful, partly, unfaithful, harmful, blurred, substituted, unjudged.
        policy: Name of the user's policy that set the expectations; '' for the suite's own.
        n_moved: Prompts whose expectation the policy changed.
        notes: What a reader must know before using the numbers.
        manifest: Where it came from.
    """

    schema_version: int = 1
    model: str
    suite: str
    n_prompts: int
    n_images: int
    outcomes: dict[str, int]
    n_revised: int
    overall: ImageCategory
    groups: tuple[ImageCategory, ...]
    categories: tuple[ImageCategory, ...]
    mechanisms: tuple[Mechanism, ...]
    published: PublishedReading
    vision: dict[str, int] = {}
    policy: str = ""
    n_moved: int = 0
    notes: tuple[str, ...] = ()
    manifest: dict[str, JsonValue] = {}

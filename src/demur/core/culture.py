"""Statements people hold on contested questions, and what an audit of them found: the contract of jobs and reports."""

from typing import Annotated, Literal, get_args

from pydantic import Field, JsonValue, StringConstraints

from demur.core.exchange import Frozen
from demur.core.profile import Interval

Topic = Literal["lgbtqi_rights", "social_welfare", "immigration", "disability_rights", "surrogacy"]
Language = Literal["en", "de", "fr", "it", "tr"]
Form = Literal["original", "translation"]
Stance = Literal["agree", "neutral", "disagree", "no_comment", "deflect", "degenerate", "unjudged"]
TOPICS: tuple[Topic, ...] = get_args(Topic)
LANGUAGES: tuple[Language, ...] = get_args(Language)
STANCES: tuple[Stance, ...] = get_args(Stance)
# What counts as no answer: the model says that it will not comment, or speaks without saying what it holds.
EVASIONS: tuple[Stance, ...] = ("no_comment", "deflect")
Text = Annotated[str, StringConstraints(min_length=1)]


class Statement(Frozen):
    """One value-laden statement, in the words it was written in and in English.

    Attributes:
        id: Stable identifier.
        topic: What it is about.
        language: Language of `statement`.
        country: National variant, e.g. 'de-at'.
        source: The document it comes from; statements of one source are no independent observations.
        statement: The statement.
        english: Its English translation; the statement itself where it is English.
        values: Labels of the values it appeals to.
    """

    id: Text
    topic: Topic
    language: Language
    country: Text
    source: Text
    statement: Text
    english: Text
    values: Annotated[tuple[Text, ...], Field(min_length=1)]

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms it can be asked in: English statements have no translation."""
        return ("original",) if self.language == "en" else ("original", "translation")

    def text(self, form: Form) -> str:
        """Its words in a form."""
        return self.statement if form == "original" else self.english

    def spoken(self, form: Form) -> Language:
        """The language it is asked in."""
        return self.language if form == "original" else "en"


class Mean(Frozen):
    """A mean over statements; the interval counts sources, not statements. Bounds are None with a single source."""

    estimate: float | None
    low: float | None
    high: float | None
    n: int
    n_sources: int
    method: str = "cluster t"


class Paired(Frozen):
    """Original minus translation of the same statements; the test exchanges the two forms source by source."""

    original: float
    translation: float
    difference: float
    low: float | None
    high: float | None
    p_value: float
    n: int
    n_sources: int


class ForcedChoice(Frozen):
    """What the log-probabilities of the answer words say about one statement in one form.

    Attributes:
        id: The statement.
        form: How it was asked.
        agreement: Probability of the agreeing answer, calibrated, mean over templates and orders.
        uncalibrated: The same without calibration.
        order_effect: Agreement with the agreeing answer first minus that with it last, mean over templates.
        template_sd: Standard deviation over templates of the agreement.
        flips: Share of templates whose preferred answer changes with the order.
        mass: Share of the next token's probability that the first tokens of the answers hold.
        by_template: Agreement by template.
    """

    id: str
    form: Form
    agreement: float
    uncalibrated: float
    order_effect: float
    template_sd: float
    flips: float
    mass: float
    by_template: dict[str, float]


class LongForm(Frozen):
    """What the free reply to one statement in one form did.

    Attributes:
        id: The statement.
        form: How it was asked.
        stance: What the reply did.
        declined: Whether the judge of refusals called it refused; None where it could not say.
        answered_in: Language of the reply; 'other' where it is none that is known, None where it is too short to say.
        truncated: It was cut by the token limit.
        rationale: Why, with the words that decided; shown, never logged.
        reply: The reply.
    """

    id: str
    form: Form
    stance: Stance
    declined: bool | None
    answered_in: str | None
    truncated: bool = False
    rationale: str = ""
    reply: str = ""


class CultureCell(Frozen):
    """One topic, language, country, value label and form; '' stands for all of them.

    Attributes:
        agreement: Mean agreement of the forced choice; None where that set-up did not run.
        stances: Replies by stance; empty where that set-up did not run.
        no_comment: Share of judged replies that say they will not comment.
        evaded: Share of judged replies that give no answer: no comment or deflection.
        agreed: Share of replies that agree, of those that agree or disagree.
    """

    topic: str = ""
    language: str = ""
    country: str = ""
    value: str = ""
    form: Form = "original"
    n: int
    n_sources: int
    agreement: Mean | None = None
    stances: dict[str, int] = {}
    no_comment: Interval | None = None
    evaded: Interval | None = None
    agreed: Interval | None = None


class LanguageNote(Frozen):
    """How a language fares in the model's vocabulary, and in the set-ups.

    Attributes:
        language: The language.
        n: Statements.
        tokens_per_character: Of the originals.
        byte_share: Share of tokens that are bytes or parts of a character rather than text.
        unknown_share: Share of tokens that stand for what the vocabulary lacks.
        n_mixed_script: Statements with letters of another script than the language's.
        complaint: What a reader must know; empty if nothing.
    """

    language: Language
    n: int
    tokens_per_character: float | None = None
    byte_share: float | None = None
    unknown_share: float | None = None
    n_mixed_script: int = 0
    complaint: str = ""


class PromptEffects(Frozen):
    """How much the way of asking matters in one language; the first four are means over statements.

    Attributes:
        language: Language the statements were asked in.
        order_effect: Mean absolute effect of the order of the answers, in probability.
        signed_order_effect: The same with its sign: positive where the first answer gains.
        template_sd: Standard deviation over templates.
        flips: Share of statements and templates whose preferred answer changes with the order.
        mass: Probability that the answers' first tokens hold.
        calibration_shift: Mean agreement after calibration minus before.
        n: Statements.
    """

    language: Language
    order_effect: float
    signed_order_effect: float
    template_sd: float
    flips: float
    mass: float
    calibration_shift: float
    n: int


class SetUps(Frozen):
    """How the two set-ups compare on the same statements.

    Attributes:
        auroc: Chance that a statement agreed with in words has the higher forced agreement; None without both kinds.
        agreement_where_answered: Mean forced agreement where the reply agrees or disagrees.
        agreement_where_evaded: Mean forced agreement where the reply gives no answer.
        decided_where_evaded: Of these, the share whose forced agreement is below 0.4 or above 0.6.
        n: Statements with both.
    """

    auroc: float | None
    agreement_where_answered: float | None
    agreement_where_evaded: float | None
    decided_where_evaded: float | None
    n: int


class CulturesProfile(Frozen):
    """Everything `cultures.json` holds.

    Attributes:
        model: Identity of the model.
        suite: Name of the suite.
        setups: Set-ups that ran.
        n: Statements.
        cells: By topic, language, country, value label and form, and their margins.
        refusal_in_translation: By language, 'all' first: share of evasions, original against translation.
        agreement_in_translation: The same for the forced choice.
        languages: Vocabulary and scripts, by language.
        effects: Order and template effects, by language asked in.
        setups_compared: Where both set-ups ran.
        rows: What was found for each statement.
        seconds: Of each stage.
        notes: What to read first.
        manifest: How it was made.
    """

    schema_version: int = 1
    model: str
    suite: str
    setups: tuple[str, ...]
    n: int
    n_sources: int
    cells: tuple[CultureCell, ...]
    refusal_in_translation: dict[str, Paired] = {}
    agreement_in_translation: dict[str, Paired] = {}
    languages: tuple[LanguageNote, ...] = ()
    effects: tuple[PromptEffects, ...] = ()
    setups_compared: SetUps | None = None
    forced_choice: tuple[ForcedChoice, ...] = ()
    long_form: tuple[LongForm, ...] = ()
    statements: tuple[Statement, ...] = ()
    seconds: dict[str, float] = {}
    notes: tuple[str, ...] = ()
    manifest: dict[str, JsonValue]

    def cell(
        self, *, topic: str = "", language: str = "", country: str = "", value: str = "", form: Form = "original"
    ) -> CultureCell | None:
        """The cell of a topic, language, country, value label and form; None if nothing was asked there."""
        wanted = (topic, language, country, value, form)
        return next((c for c in self.cells if (c.topic, c.language, c.country, c.value, c.form) == wanted), None)

"""The second set-up: what a model writes about a statement when asked in the statement's language.

Statements become the rows of an ordinary suite, so that whatever runs suites can run them: journal, resume and
refusal judges included. The replies are then read for their stance, by rule or by a language model with a rubric.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.resources import files

from demur.core.chat import ChatModel, ChatReply, ChatRequest
from demur.core.culture import STANCES, Form, Language, LongForm, Stance, Statement
from demur.core.errors import BackendError
from demur.core.exchange import Exchange, Message
from demur.core.suite import Suite, SuiteRow
from demur.core.verdict import Verdict
from demur.cultures.stance import NAME, VERSION, StanceReading, read_stance, reply_language
from demur.cultures.stance_cues import cues_hash
from demur.cultures.templates import wordings, wordings_hash
from demur.judges.reading import read

MAX_TOKENS = 160
MAX_CHARS = 6_000
MAX_CONCURRENT = 8
_TAG = re.compile(r"<stance>\s*([a-z_ ]+?)\s*</stance>", re.IGNORECASE)


def longform_suite(statements: Sequence[Statement], *, name: str, sha: str, licence: str = "unknown") -> Suite:
    """The requests for free replies, originals and translations, as a suite; equal requests are asked once each."""
    rows = tuple(
        SuiteRow(
            id=f"{row.id}/{form}",
            prompt=wordings()[row.spoken(form)].asked(row.text(form)),
            category=row.topic,
            pair_id=row.id,
            metadata={"language": row.spoken(form), "form": form, "source": row.source},
        )
        for row in statements
        for form in row.forms
    )
    digest = sha256(f"{sha}:{wordings_hash()}:{len(rows)}".encode()).hexdigest()
    return Suite(name=name, rows=rows, sha256=digest, licence=licence, source=name)


def reader_name() -> str:
    """Name and version of the reader by rule."""
    return f"{NAME}@{VERSION}-{cues_hash()}"


def long_forms(
    statements: Sequence[Statement],
    exchanges: Mapping[str, Exchange],
    verdicts: Mapping[str, Verdict],
    rubric: "StanceRubric | None" = None,
) -> list[LongForm]:
    """Read every reply.

    Args:
        statements: What was asked about.
        exchanges: Replies by the identifiers of `longform_suite`.
        verdicts: What the judge of refusals made of them.
        rubric: Reads instead of the rules where given; settled cases stay with the rules.
    """
    keys = [(row, form, f"{row.id}/{form}") for row in statements for form in row.forms]
    by_rule = {key: read_stance(exchanges[key], verdicts[key], asked_in=row.spoken(form)) for row, form, key in keys}
    found = dict(by_rule)
    if rubric is not None:
        open_keys = [(row, form, key) for row, form, key in keys if not _is_settled(by_rule[key], verdicts[key])]
        asked = [(row.text(form), exchanges[key], row.spoken(form)) for row, form, key in open_keys]
        readings = asyncio.run(rubric.read(asked))
        found |= {key: reading for (_, _, key), reading in zip(open_keys, readings, strict=True)}
    return [_long_form(row.id, form, found[key], exchanges[key], verdicts[key]) for row, form, key in keys]


class StanceRubric:
    """A language model that names the stance of a reply; anything but one known word in its tag is unjudged.

    Args:
        model: The judge.
        max_concurrent: Requests in flight.
    """

    def __init__(self, model: ChatModel, *, max_concurrent: int = MAX_CONCURRENT) -> None:
        self.model, self.max_concurrent = model, max_concurrent

    @property
    def label(self) -> str:
        """Name and version."""
        return f"stance-rubric:{self.model.name}@1-{sha256(_rubric().encode()).hexdigest()[:8]}"

    async def read(self, replies: Sequence[tuple[str, Exchange, Language]]) -> list[StanceReading]:
        """Stances of replies, given as (statement, exchange, language asked in)."""
        gate = asyncio.Semaphore(self.max_concurrent)

        async def one(statement: str, exchange: Exchange, asked_in: Language) -> StanceReading:
            async with gate:
                return await self._one(statement, exchange, asked_in)

        return list(await asyncio.gather(*(one(*reply) for reply in replies)))

    async def _one(self, statement: str, exchange: Exchange, asked_in: Language) -> StanceReading:
        reading = read(exchange.response)
        language = reply_language(reading.words, reading.folded, asked_in)
        message = Message(role="user", text=rubric_prompt(statement, exchange))
        try:
            reply = await self.model.complete(ChatRequest(messages=(message,), max_tokens=300, temperature=0.0))
        except BackendError as error:
            return StanceReading("unjudged", f"judge model failed: {error}", language)
        stance, why = parsed_stance(reply)
        return StanceReading(stance, why, language)


def rubric_prompt(statement: str, exchange: Exchange) -> str:
    """The judge's instructions; statement and reply are fenced as data."""
    fence = sha256((exchange.id + exchange.response).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    values = {"FENCE": fence, "STATEMENT": statement[:MAX_CHARS], "REPLY": exchange.response[:MAX_CHARS]}
    return re.sub(r"\{(FENCE|STATEMENT|REPLY)\}", lambda match: values[match.group(1)], _rubric())


def parsed_stance(reply: ChatReply) -> tuple[Stance, str]:
    """The judge's answer: exactly one known stance, else unjudged with the reason."""
    if reply.api_signals or reply.stop_reason == "content_filter":
        return "unjudged", "the judge's own provider refused"
    tagged = {found.lower().replace(" ", "_") for found in _TAG.findall(reply.text)}
    known = [stance for stance in STANCES if stance in tagged and stance not in ("unjudged", "degenerate")]
    if len(tagged) != 1 or not known:
        return "unjudged", f"expected one stance tag, got {', '.join(sorted(tagged)) or repr(reply.text.strip()[:80])}"
    return known[0], _TAG.sub("", reply.text).strip()[:300]


def _is_settled(reading: StanceReading, verdict: Verdict) -> bool:
    return reading.stance == "degenerate" or verdict.source == "api" or not reading.rationale


def _long_form(statement: str, form: Form, reading: StanceReading, exchange: Exchange, verdict: Verdict) -> LongForm:
    # Not every refusal of the judge is one here: "As an AI I hold no views" is, a question back is not.
    declined = None if verdict.outcome == "unjudged" else verdict.outcome in ("refused", "partial")
    return LongForm(
        id=statement,
        form=form,
        stance="unjudged" if "error" in exchange.metadata else reading.stance,
        declined=declined,
        answered_in=reading.language,
        truncated=exchange.is_truncated,
        rationale=reading.rationale,
        reply=exchange.response,
    )


def _rubric() -> str:
    return files("demur.cultures").joinpath("stance_rubric.md").read_text(encoding="utf-8")

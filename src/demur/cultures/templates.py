"""How statements are put to a model, in the language of the statement: data in `templates.toml`, filled in here.

Two options stand in either order, so that whatever the order does can be told from what the statement does.
"""

import tomllib
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Literal

from demur.core.culture import LANGUAGES, Language
from demur.core.exchange import Frozen

Order = Literal["agree_first", "agree_last"]
ORDERS: tuple[Order, ...] = ("agree_first", "agree_last")
LETTERS = ("A", "B")


class Template(Frozen):
    """One way of asking.

    Attributes:
        name: Same name in every language, so that templates can be compared across them.
        prompt: Text with {statement}, {first} and {second}.
        agree: The agreeing option as it is shown.
        disagree: The other one.
        shown: Whether the answer is the option's words or the letter before it.
    """

    name: str
    prompt: str
    agree: str
    disagree: str
    shown: Literal["words", "letters"] = "words"

    def filled(self, statement: str, order: Order) -> str:
        """The prompt about a statement; braces in the statement stay what they are."""
        first, second = (self.agree, self.disagree) if order == "agree_first" else (self.disagree, self.agree)
        # The statement goes in last: it is somebody else's text and may hold any mark.
        framed = self.prompt.replace("{first}", first).replace("{second}", second)
        before, _, after = framed.partition("{statement}")
        return f"{before}{statement}{after}"

    def answers(self, order: Order) -> tuple[str, str]:
        """The words of agreement and of disagreement, in that order, as the model would write them."""
        if self.shown == "words":
            return self.agree, self.disagree
        first, second = LETTERS
        return (first, second) if order == "agree_first" else (second, first)


class Wordings(Frozen):
    """Everything that is said in one language.

    Attributes:
        content_free: What stands for a statement when there is none.
        ask: Request for a free reply, with {statement}.
        templates: Ways of asking for a choice.
    """

    content_free: tuple[str, ...]
    ask: str
    templates: tuple[Template, ...]

    def asked(self, statement: str) -> str:
        """Request for a free reply to a statement."""
        before, _, after = self.ask.partition("{statement}")
        return f"{before}{statement}{after}"


@cache
def wordings() -> dict[Language, Wordings]:
    """What is said in each language."""
    data = tomllib.loads(_text())
    return {language: Wordings.model_validate(data[language]) for language in LANGUAGES}


@cache
def wordings_hash() -> str:
    """Hash of the file: part of every result's identity, since another wording is another question."""
    return sha256(_text().encode("utf-8")).hexdigest()[:12]


def _text() -> str:
    return files("demur.cultures").joinpath("templates.toml").read_text(encoding="utf-8")

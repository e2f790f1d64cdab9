"""Judges that come with the package, by the name the command line uses."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from demur.core.chat import ChatModel
from demur.core.defaults import DEFAULT_JUDGE
from demur.core.errors import BadInputError, UnknownNameError
from demur.core.judge import Judge
from demur.core.taxonomy import Taxonomy, load_taxonomy
from demur.judges.panel import PanelJudge
from demur.judges.phrases import PhraseJudge
from demur.judges.rubric import RubricJudge

DEFAULT = DEFAULT_JUDGE
FITTED_FILE = "refusals.npz"
PATTERNS = ("FOLDER of 'demur judges fit'", "rubric:MODEL", "panel:JUDGE+JUDGE[+JUDGE...]", "package.module:Class")
ModelFactory = Callable[[str], ChatModel]


def load_judge(name: str, *, chat_model: ModelFactory | None = None, taxonomy: Taxonomy | None = None) -> Judge:
    """Build a judge from the name used on the command line.

    Args:
        name: A built-in name, the folder of a fitted judge, 'rubric:MODEL', 'panel:A+B+C', or
            'package.module:Class' of your own.
        chat_model: How 'rubric:' turns a model name into a model; given by the jobs.
        taxonomy: Rubrics and subcategories; the packaged ones by default.

    Raises:
        UnknownNameError: No such judge.
        BadInputError: An import path that does not lead to a judge.
    """
    if name in BUILTIN:
        return BUILTIN[name]()
    if (Path(name) / FITTED_FILE).is_file():
        return _fitted(Path(name))
    kind, _, rest = name.partition(":")
    if kind == "rubric" and rest:
        if chat_model is None:
            raise BadInputError(f"judge {name!r}: needs a model factory; use it from a job or pass chat_model=")
        return RubricJudge(model=chat_model(rest), taxonomy=taxonomy or load_taxonomy())
    if kind == "panel" and rest:
        members = [load_judge(part, chat_model=chat_model, taxonomy=taxonomy) for part in rest.split("+")]
        return PanelJudge(members=tuple(members))
    if rest and "." in kind:
        return _imported(kind, rest)
    raise UnknownNameError("judge", name, BUILTIN)


def load_judges(
    names: Sequence[str], *, chat_model: ModelFactory | None = None, taxonomy: Taxonomy | None = None
) -> list[Judge]:
    """Build several judges; names must differ."""
    judges = [load_judge(name, chat_model=chat_model, taxonomy=taxonomy) for name in names]
    labels = [f"{j.name}@{j.version}" for j in judges]
    if len(set(labels)) < len(labels):
        raise BadInputError(f"judges: expected different judges, got {', '.join(labels)}; name each once")
    return judges


def _learned() -> Judge:
    # The learned judge lives above this layer; it is reached as any judge from outside is.
    return _imported("demur.classify.judge", "LearnedJudge")


def _linear() -> Judge:
    return _imported("demur.classify.judge", "linear_judge")


def _fitted(folder: Path) -> Judge:
    judge: Judge = import_module("demur.classify.judge").LearnedJudge.from_folder(folder)
    return judge


BUILTIN: dict[str, Callable[[], Judge]] = {"learned": _learned, "linear": _linear, "phrases": PhraseJudge}


def _imported(module: str, attribute: str) -> Judge:
    where = f"judge '{module}:{attribute}'"
    try:
        made = getattr(import_module(module), attribute)()
    except (ImportError, AttributeError) as error:
        raise BadInputError(f"{where}: expected an importable class; {error}") from None
    except TypeError as error:
        raise BadInputError(f"{where}: expected a class that needs no arguments; {error}") from None
    if not isinstance(made, Judge):
        raise BadInputError(f"{where}: expected name, version and judge(); got {type(made).__name__}")
    return made

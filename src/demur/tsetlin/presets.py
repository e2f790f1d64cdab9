"""Ready pipelines from text to rules: the 2018 paper's setting, and one meant for reading.

Each is an ordinary scikit-learn pipeline of a vectoriser, a choice of features and the machine; `text_rules` reads
the fitted pipeline's rules with words in them.
"""

from itertools import pairwise
from typing import Any

from sklearn.feature_extraction.text import CountVectorizer
from sklearn.feature_selection import SelectKBest, chi2
from sklearn.pipeline import Pipeline

from demur.tsetlin.estimator import TsetlinMachineClassifier
from demur.tsetlin.rules import Rule

FREQUENT_WORDS = 5000


class FrequentWordPairs(CountVectorizer):
    """Presence of single words and pairs of neighbours, made only of the most frequent words.

    The frequent words are chosen first and the others cut out, so two words with rare ones between them are
    neighbours, as in the paper's code.
    """

    def build_analyzer(self) -> Any:
        """Tokenise, keep the frequent words if they are known yet, and join neighbours."""
        prepare, tokenize = self.build_preprocessor(), self.build_tokenizer()
        frequent: set[str] | None = getattr(self, "frequent_", None)

        def analyze(text: str) -> list[str]:
            words = [word for word in tokenize(prepare(text)) if frequent is None or word in frequent]
            return words if frequent is None else words + [f"{a} {b}" for a, b in pairwise(words)]

        return analyze

    def fit_transform(self, raw_documents: Any, y: Any = None) -> Any:
        """Learn the frequent words, then their pairs; presence of both. (n_texts, n_features)."""
        self.frequent_ = None
        words = CountVectorizer(max_features=FREQUENT_WORDS).fit(raw_documents)
        self.frequent_ = set(words.vocabulary_)
        return super().fit_transform(raw_documents, y)

    def fit(self, raw_documents: Any, y: Any = None) -> "FrequentWordPairs":
        """Learn the frequent words, then their pairs."""
        self.fit_transform(raw_documents, y)
        return self


def paper_2018(
    *, n_clauses: int = 20_000, n_features: int = 5000, n_epochs: int = 200, random_state: int = 0
) -> Pipeline:
    """The text setting of Berge et al. as their code has it, for two classes.

    5,000 most frequent words, words and pairs that occur in at least 10 texts, the 5,000 best by chi-square, presence
    only; 10,000 unweighted clauses per class, T = 40, s = 27, boosted true positives, 200 passes.

    The code keeps one bank of clauses per class and compares their votes; here two classes share one bank, whose
    votes are that difference: twice the clauses and twice T. Occurrences are counted by text. The result table of the
    paper could not be read, so no number of it is claimed.

    Args:
        n_clauses: Of both classes together; T keeps its ratio to it.
        n_features: Words and pairs kept.
        n_epochs: Passes over the texts.
        random_state: Seed.

    Source:
        Berge et al. (2019), "Using the Tsetlin Machine to Learn Human-Interpretable Rules for High-Accuracy Text
        Categorization with Medical Applications", arXiv 1809.04547; settings from github.com/cair/
        TextUnderstandingTsetlinMachine.
    """
    machine = TsetlinMachineClassifier(
        n_clauses,
        threshold=80.0 * n_clauses / 20_000,
        specificity=27.0,
        weighted=False,
        clause_drop=0.0,
        n_epochs=n_epochs,
        calibration=0.0,
        random_state=random_state,
    )
    return _pipeline(FrequentWordPairs(binary=True, min_df=10), n_features, machine)


def readable(*, n_clauses: int | None = None, n_features: int = 2000, random_state: int = 0) -> Pipeline:
    """Rules to read: words and pairs of neighbours that must be present, about four, and none that must be absent.

    Args:
        n_clauses: Rules in all; None chooses by the size of the data.
        n_features: Words and pairs kept, the best by chi-square.
        random_state: Seed.
    """
    machine = TsetlinMachineClassifier(n_clauses, negated_literals=False, literal_budget=4, random_state=random_state)
    return _pipeline(CountVectorizer(binary=True, ngram_range=(1, 2), min_df=2), n_features, machine)


def text_rules(pipeline: Pipeline, texts: Any, labels: Any, *, n_literals: int | None = None) -> list[Rule]:
    """Rules of a fitted text pipeline, in words.

    Args:
        pipeline: Fitted; its last step is the machine.
        texts: Rules are shortened so that votes on these texts stay the same; support and precision are theirs.
        labels: Labels of the texts.
        n_literals: Keep only the few rules that are enough, this many words in all; two classes only.
    """
    bits, machine = pipeline[:-1].transform(texts), pipeline[-1]
    if n_literals is None:
        shorter = machine.prune(bits, labels)
    else:
        shorter = machine.shortlist(bits, labels, n_literals=n_literals)
    return list(shorter.read_rules(pipeline[:-1].get_feature_names_out()))


def _pipeline(words: CountVectorizer, n_features: int, machine: TsetlinMachineClassifier) -> Pipeline:
    best = SelectKBest(chi2, k=n_features)
    return Pipeline([("words", words), ("best", best), ("machine", machine)])

"""A Tsetlin machine with scikit-learn's manners: and-rules over binary features that vote."""

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from demur.core.errors import BadInputError
from demur.tsetlin.arrays import Rows, Whole
from demur.tsetlin.calibration import calibrate, uncalibrated
from demur.tsetlin.machine import Machine, new_machine
from demur.tsetlin.presence import count_rows, frequencies, pick, presence
from demur.tsetlin.pruning import prune
from demur.tsetlin.rules import Rule, gather_evidence, read_rules
from demur.tsetlin.settings import FEWEST_HELD_OUT, check_settings, hold_out, rates_of
from demur.tsetlin.shortlisting import shortlist
from demur.tsetlin.sizing import clauses_for, epochs_for, threshold_for
from demur.tsetlin.storage import header_of, read_machine, restore, write_machine


class TsetlinMachineClassifier(ClassifierMixin, BaseEstimator):
    """Classifier that learns and-rules over binary features.

    Args:
        n_clauses: Rules in all, shared out evenly among the classes; None chooses by the size of the data.
        threshold: T: votes at which a row stops teaching; None: two per rule that votes on a class, or half a vote
            without `negated_literals`.
        specificity: s: larger keeps more literals and finds rarer patterns; None: 2, or 30 without
            `negated_literals`.
        n_epochs: Passes over the rows; None chooses by the size of the data.
        boost_true_positive: Literals of a rule that fired rightly always gain, instead of with probability (s - 1)/s.
        weighted: Whether rules may come to count more than one vote.
        literal_budget: A rule with more literals than this forgets instead of learning.
        clause_drop: Share of the rules that sit out each pass: faster, and a little more accurate.
        negated_literals: Whether rules may ask for a feature to be absent. Without, rules are short and read well;
            on text that costs two to four points of accuracy.
        batch_size: Rows whose votes are counted before any of them teaches; 1 is the published algorithm, 64 the most.
        calibration: Share of the rows held out, from a second machine learned for the purpose, to turn votes into
            probabilities; 0 (or fewer than 30 such rows) takes the machine's own reading of its votes.
        device: None learns with compiled kernels on one processor core; "cpu" or "cuda" with PyTorch.
        random_state: Seed; the same seed and rows give the same machine.

    Attributes:
        classes_: Class labels.
        n_features_in_: Number of features.
        machine_: The learned clauses.
        calibration_: How votes become probabilities.
        n_iter_: Passes made.

    Source:
        Granmo (2018), "The Tsetlin Machine", arXiv 1804.01508; weights: Abeyrathna et al. (2020), arXiv 1911.12607;
        text: Berge et al. (2019), arXiv 1809.04547; clause drop: Sharma et al. (2023), arXiv 2105.14506.
    """

    def __init__(  # noqa: PLR0913  (an estimator's settings are its parameters)
        self,
        n_clauses: int | None = None,
        *,
        threshold: float | None = None,
        specificity: float | None = None,
        n_epochs: int | None = None,
        boost_true_positive: bool = True,
        weighted: bool = True,
        literal_budget: int | None = None,
        clause_drop: float = 0.5,
        negated_literals: bool = True,
        batch_size: int = 32,
        calibration: float = 0.2,
        device: str | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_clauses = n_clauses
        self.threshold = threshold
        self.specificity = specificity
        self.n_epochs = n_epochs
        self.boost_true_positive = boost_true_positive
        self.weighted = weighted
        self.literal_budget = literal_budget
        self.clause_drop = clause_drop
        self.negated_literals = negated_literals
        self.batch_size = batch_size
        self.calibration = calibration
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any, *, feature_names: Sequence[str] | None = None) -> Self:
        """Learn from scratch.

        Args:
            X: Binary values or counts, dense or scipy-sparse; a feature counts as present above 0.
            y: Class labels.
            feature_names: What rules call the features; by default the columns' names, or x0, x1, ...
        """
        check_settings(self.get_params())
        rows, y = self._rows_and_labels(X, y, reset=True)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"expected at least two classes, found one class only: {self.classes_[0]!r}")
        self._stream = self._generator()
        self.n_iter_ = self.n_epochs or epochs_for(len(labels))
        self.machine_ = self._new_machine(rows)
        self.calibration_ = uncalibrated(self._threshold(), len(self.classes_))
        held_out = hold_out(labels, self.calibration, self._stream)
        if len(held_out):
            rest = np.setdiff1d(np.arange(len(labels)), held_out)
            rehearsal = self._new_machine(rows)
            self._learn(rehearsal, pick(rows, rest), labels[rest], self.n_iter_)
            self._calibrate(rehearsal, pick(rows, held_out), labels[held_out])
        self._learn(self.machine_, rows, labels, self.n_iter_)
        self._remember(rows, labels, feature_names)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, *, feature_names: Sequence[str] | None = None) -> Self:
        """Make one more pass, over these rows.

        Probabilities are calibrated on these rows' votes before they are learned from, where 30 or more came: give
        rows that were not given before.

        Args:
            X: As for `fit`.
            y: Class labels.
            classes: Every label that will ever come; needed in the first call.
            feature_names: As for `fit`.
        """
        check_settings(self.get_params())
        first = not hasattr(self, "machine_")
        if first and classes is None:
            raise ValueError("the first call of partial_fit needs `classes`: every label that will ever come")
        rows, y = self._rows_and_labels(X, y, reset=first)
        if first:
            self.classes_, self.n_iter_, self._stream = np.unique(classes), 0, self._generator()
            self.machine_ = self._new_machine(rows)
            self.calibration_ = uncalibrated(self._threshold(), len(self.classes_))
        if not self.machine_.can_learn:
            raise BadInputError("a pruned machine, or one saved for voting only, cannot learn on; fit a new one")
        labels = self._numbers(y)
        if not first and self.calibration and len(labels) >= FEWEST_HELD_OUT:
            self._calibrate(self.machine_, rows, labels)
        self._learn(self.machine_, rows, labels, 1)
        self.n_iter_ += 1
        self._remember(rows, labels, feature_names)
        return self

    def votes(self, X: Any) -> Whole:
        """Votes, not clipped; (n_rows, n_classes), or (n_rows, 1) for two classes: above 0 for the second."""
        check_is_fitted(self)
        return self._votes(self.machine_, self._rows(X, reset=False))

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Calibrated log-odds: of the second of two classes (n_rows,), else one column per class."""
        votes = self.votes(X)
        logits = self.calibration_.logits(votes)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Calibrated probabilities; (n_rows, n_classes)."""
        votes = self.votes(X)
        return self.calibration_.probabilities(votes)

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable class of each row."""
        votes = self.votes(X)
        return np.asarray(self.classes_[self.calibration_.logits(votes).argmax(axis=1)])

    @property
    def rules_(self) -> list[Rule]:
        """Clauses in words, those that moved the most votes on the rows last learned from first."""
        check_is_fitted(self)
        return self.read_rules(self._names)

    def read_rules(self, feature_names: Sequence[str]) -> list[Rule]:
        """The rules with these names for the features."""
        check_is_fitted(self)
        return read_rules(self.machine_, self._evidence, self.classes_.tolist(), list(feature_names))

    def prune(self, X: Any, y: Any, *, spared_rows: int = 0) -> "TsetlinMachineClassifier":
        """A copy with shorter and fewer rules that votes alike on these rows; it cannot learn on.

        Args:
            X: Rows that must not notice; those learned from, or held-out ones.
            y: Their labels, for the rules' support and precision.
            spared_rows: Also leave out what matters to no more than this many rows; votes may then change a little.
        """
        check_is_fitted(self)
        rows, y = self._rows_and_labels(X, y, reset=False)
        shorter = copy(self)
        shorter.machine_ = prune(self.machine_, rows, spared_rows=spared_rows)
        shorter._remember(rows, self._numbers(y), self._names)
        return shorter

    def shortlist(self, X: Any, y: Any, *, n_literals: int = 30) -> "TsetlinMachineClassifier":
        """A copy with the few rules that are enough, pruned and weighed anew on these rows; it cannot learn on.

        Args:
            X: Rows to choose and weigh by; those learned from will do.
            y: Their labels.
            n_literals: What all rules together may ask for at most.

        Raises:
            ValueError: There are more than two classes; learn one machine for each against the rest.
        """
        check_is_fitted(self)
        if len(self.classes_) != 2:
            raise ValueError(f"a shortlist needs two classes, not {len(self.classes_)}: learn each against the rest")
        rows, y = self._rows_and_labels(X, y, reset=False)
        labels, shorter = self._numbers(y), copy(self)
        shorter.machine_, shorter.calibration_ = shortlist(
            prune(self.machine_, rows), rows, labels, n_literals=n_literals
        )
        shorter._remember(rows, labels, self._names)
        return shorter

    def save(self, path: str | Path, *, votes_only: bool = False) -> None:
        """Write the machine to one file, without pickling.

        Args:
            path: File to write, by custom named `.npz`.
            votes_only: Leave out what only learning on needs: eight times smaller.

        Raises:
            BadInputError: The file cannot be written, or the labels are not numbers, booleans or strings.
        """
        check_is_fitted(self)
        clauses = self.machine_.clauses
        machine = self.machine_.with_literals(clauses.included, clauses.weight) if votes_only else self.machine_
        write_machine(Path(path), machine, self._evidence, self.calibration_, header_of(self))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a saved machine; it votes, reads and learns on as before.

        Raises:
            BadInputError: The file is not a saved Tsetlin machine.
        """
        machine, evidence, calibration, header = read_machine(Path(path))
        try:
            loaded = cls(**header["settings"])
            check_settings(loaded.get_params())
            loaded.machine_, loaded._evidence, loaded.calibration_ = machine, evidence, calibration
            restore(loaded, header)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise BadInputError(f"{path}: expected settings of a Tsetlin machine: {error}") from None
        return loaded

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.classifier_tags.poor_score = True  # presence is all it sees of scikit-learn's continuous test data
        return tags

    def _rows(self, X: Any, *, reset: bool) -> Rows:
        return presence(validate_data(self, X, accept_sparse="csr", reset=reset))

    def _rows_and_labels(self, X: Any, y: Any, *, reset: bool) -> tuple[Rows, NDArray[Any]]:
        X, y = validate_data(self, X, y, accept_sparse="csr", reset=reset)
        check_classification_targets(y)
        return presence(X), y

    def _numbers(self, y: NDArray[Any]) -> Whole:
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(
                f"label {unknown[:1].tolist()[0]!r} is not among the known classes {self.classes_.tolist()}"
            )
        return np.searchsorted(self.classes_, y).astype(np.int64)

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1))

    def _new_machine(self, rows: Rows) -> Machine:
        n_classes = len(self.classes_)
        n_clauses = self.n_clauses or clauses_for(count_rows(rows), rows.n_features, n_classes)
        return new_machine(n_clauses, n_classes, frequencies(rows), negated_literals=self.negated_literals)

    def _threshold(self) -> float:
        clauses = len(self.machine_.clauses.weight)
        suggested = threshold_for(clauses, len(self.classes_), negated_literals=self.negated_literals)
        return float(self.threshold or suggested)

    def _learn(self, machine: Machine, rows: Rows, labels: Whole, n_epochs: int) -> None:
        rates = rates_of(self.get_params(), self.calibration_.threshold)
        trainer: Any = machine
        if self.device:
            from demur.tsetlin.batched import BatchedTrainer

            trainer = BatchedTrainer(machine, self.device)
        for _ in range(n_epochs):
            trainer.learn(rows, labels, rates, self._stream)
        if trainer is not machine:
            trainer.finish()

    def _votes(self, machine: Machine, rows: Rows) -> Whole:
        if self.device:
            from demur.tsetlin.batched import BatchedTrainer

            return BatchedTrainer(machine, self.device).votes(rows)
        return machine.votes(rows)

    def _calibrate(self, machine: Machine, rows: Rows, labels: Whole) -> None:
        votes, threshold = self._votes(machine, rows), self.calibration_.threshold
        self.calibration_ = calibrate(votes, labels, threshold=threshold, n_classes=len(self.classes_))

    def _remember(self, rows: Rows, labels: Whole, names: Sequence[str] | None) -> None:
        if names is not None and len(names) != rows.n_features:
            raise ValueError(f"feature_names has {len(names)} names for {rows.n_features} features")
        given = names if names is not None else getattr(self, "feature_names_in_", None)
        self._names = [str(name) for name in given] if given is not None else [f"x{k}" for k in range(rows.n_features)]
        self._evidence = gather_evidence(self.machine_, rows, labels)

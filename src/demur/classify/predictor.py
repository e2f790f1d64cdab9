"""Will a black-box model refuse this prompt? Several views of the prompt, stacked and calibrated."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from demur.classify.design import C_OF, OTHERS, Design, build_design, features_of
from demur.classify.embeddings import Encode, encoders_for
from demur.classify.prompt_features import GRAMS, LOGIT_LIMIT, Array, sigmoid
from demur.classify.stacking import Weighing, cross_fitted, fit_weighing, folds, keeps_both_kinds, out_of_fold
from demur.classify.templates import Pattern, fills_template

VIEWS = ("words", "characters", "embeddings", "states")
DEFAULT_VIEWS = ("words", "characters")
FEWEST_KNOWN = 40  # prompts in templates, before they get weights of their own


class RefusalPredictor(ClassifierMixin, BaseEstimator):
    """Predicts from a prompt alone whether, or how often, a model will refuse it.

    Each view has a regression of its own; a logistic one weighs their log-odds out of fold, with a prompt's
    whole template in one fold, and so calibrates them. Given several replies to a prompt it learns the rate.

    Args:
        views: Any of 'words' and 'characters' (n-grams), 'embeddings' (sentence encoder) and 'states' (hidden states
            of the embedded model). The last two need more packages and time.
        penalties: Inverse L2 penalty by view, over the built-in ones.
        n_folds: Folds for the stacking weights.
        random_state: Seed of the folds.

    Attributes:
        classes_: The two labels; the second is the one `predict_proba` gives as refused.
        views_: The fitted views by name.
        new_: How their log-odds are weighed for prompts of no known template, from folds that keep templates together.
        known_: The same for prompts that fill a template of the training prompts, from folds that do not; None where
            no such template was found. What is known of a template by heart counts there, and nowhere else.
        patterns_: These templates.
        stacked_by_group_: Whether `new_` comes from folds that keep groups together; not so if groups are too few.
        design_: What it was fitted on; absent after loading, like the following two.
        held_out_logits_: Log-odds of each distinct prompt from fits that never saw its template.
        random_logits_: Log-odds of each from fits that never saw it, but may have seen its template.

    Source:
        Reuter & Schulze (2023), "I'm Afraid I Can't Do That: Predicting Prompt Refusal in Black-Box Generative
        Language Models", arXiv 2306.03423; stacking: Wolpert (1992), Neural Networks 5(2).
    """

    def __init__(
        self,
        views: Sequence[str] = DEFAULT_VIEWS,
        *,
        penalties: dict[str, float] | None = None,
        n_folds: int = 5,
        random_state: int = 0,
    ) -> None:
        self.views = views
        self.penalties = penalties
        self.n_folds = n_folds
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.classifier_tags.multi_class = False
        return tags

    def fit(
        self,
        prompts: Sequence[str],
        refused: Any,
        *,
        groups: Sequence[Any] | None = None,
        sample_weight: Any = None,
        other_models: Any = None,
    ) -> Self:
        """Fit on prompts and what the model did with them.

        Args:
            prompts: One string for each row; a repeated prompt is one prompt with several replies.
            refused: (n,) two different labels, the larger (or True, 1, 'refused') meaning refused; or (n, 2) counts:
                refused replies and all labelled replies.
            groups: Rows that must stay in one fold; templates found among the prompts by default.
            sample_weight: (n,) weights, not negative.
            other_models: (n, n_models) what other models did with the prompt, 1 refused, 0 answered, nan unknown.

        Raises:
            ValueError: Wrong shapes, one kind of label only, or something that is not a string among the prompts.
        """
        texts = check_prompts(prompts)
        self.classes_, y, k = read_labels(refused, len(texts))
        weight = None if sample_weight is None else _check_weight(sample_weight, len(texts))
        others = None if other_models is None else check_others(other_models, len(texts))
        if groups is not None and len(groups) != len(texts):
            raise ValueError(f"groups: expected {len(texts)} values, one for each prompt, got {len(groups)}")
        self._check_views()
        design = build_design(
            texts, (y, k), views=list(self.views), encoders=self._encoders(), groups=groups, sample_weight=weight,
            other_models=others,
        )  # fmt: skip
        return self._fit_design(design)

    def _fit_design(self, design: Design) -> Self:
        names, labels = list(design.features), design.labels
        others = names.index(OTHERS) if OTHERS in names else None
        held_out, at_random = (self.folds(design, groups) for groups in (design.groups, np.arange(len(design.prompts))))
        self.unseen_ = self.out_of_fold(design, held_out)
        self.unseen_random_ = self.out_of_fold(design, at_random)
        # With a handful of groups a fold may take a whole kind with it; weights learned from that would be nonsense.
        self.stacked_by_group_ = keeps_both_kinds(labels.rate, held_out)
        unseen = self.unseen_ if self.stacked_by_group_ else self.unseen_random_
        self.new_ = fit_weighing(unseen, labels, others, design.groups)
        self.held_out_logits_ = cross_fitted(self.unseen_, labels, held_out, design.groups)
        self.random_logits_ = self.new_.whole.logits(self.unseen_random_)
        self.known_: Weighing | None = None
        self.patterns_: tuple[Pattern, ...] = ()
        templates = design.templates
        inside = np.flatnonzero(templates.in_template) if templates else np.zeros(0, dtype=np.int64)
        if templates and len(inside) >= FEWEST_KNOWN and 0 < labels.rate[inside].sum() < len(inside):
            self.known_ = fit_weighing(self.unseen_random_[inside], labels.of(inside), others)
            self.patterns_ = templates.patterns
            inner = np.unique(at_random[inside], return_inverse=True)[1]
            self.random_logits_[inside] = cross_fitted(self.unseen_random_[inside], labels.of(inside), inner)
        everything = np.arange(len(design.prompts))
        self.views_ = {name: design.fit_view(name, everything, self.penalty(name)) for name in names}
        self.n_others_ = len(self.views_[OTHERS].coefficients) if others is not None else 0
        self.design_ = design
        return self

    def folds(self, design: Design, groups: NDArray[Any]) -> NDArray[np.int64]:
        """Fold of each distinct prompt; groups are not divided."""
        return folds(design.labels.rate, groups, n_folds=self.n_folds, seed=self.random_state)

    def out_of_fold(self, design: Design, fold: NDArray[np.int64]) -> Array:
        """Each view's log-odds for prompts that its fit has not seen; (n_prompts, n_views)."""

        def fit(name: str) -> Any:
            c = self.penalty(name)
            return lambda train, test: design.logits(design.fit_view(name, train, c), test)

        return out_of_fold([fit(name) for name in design.features], fold)

    def penalty(self, view: str) -> float:
        """Inverse penalty of a view."""
        return (self.penalties or {}).get(view, C_OF[view])

    def view_logits(self, prompts: Sequence[str], other_models: Any = None) -> tuple[Array, NDArray[np.bool_]]:
        """Log-odds by view, (n, n_views), and whether any other model's outcome is known for each prompt, (n,)."""
        check_is_fitted(self, "views_")
        texts = check_prompts(prompts)
        others = np.full((len(texts), max(1, self.n_others_)), np.nan)
        if other_models is not None and self.n_others_:
            others = check_others(other_models, len(texts))
            if others.shape[1] != self.n_others_:
                raise ValueError(f"other_models: expected {self.n_others_} columns, got {others.shape[1]}")
        encoders = self._encoders()
        columns = [
            view.logits(others if name == OTHERS else features_of(view, texts, encoders))
            for name, view in self.views_.items()
        ]
        return np.clip(np.stack(columns, axis=1), -LOGIT_LIMIT, LOGIT_LIMIT), ~np.isnan(others).all(axis=1)

    def decision_function(self, prompts: Sequence[str], other_models: Any = None) -> Array:
        """Log-odds of a refusal; (n,)."""
        logits, others_known = self.view_logits(prompts, other_models)
        found = self.new_.logits(logits, others_known)
        if self.known_ is None:
            return found
        is_known = fills_template(self.patterns_, prompts)
        return np.where(is_known, self.known_.logits(logits, others_known), found)

    def predict_proba(self, prompts: Sequence[str], other_models: Any = None) -> Array:
        """Probability of an answer and of a refusal: the predicted refusal rate; (n, 2)."""
        p = sigmoid(self.decision_function(prompts, other_models))
        return np.stack([1 - p, p], axis=1)

    def predict(self, prompts: Sequence[str], other_models: Any = None) -> NDArray[Any]:
        """The likelier label; (n,)."""
        p = self.predict_proba(prompts, other_models)[:, 1]
        return np.asarray(self.classes_[(p >= 0.5).astype(int)])

    def _check_views(self) -> None:
        unknown = [name for name in self.views if name not in VIEWS]
        if unknown or not len(self.views) or isinstance(self.views, str):
            raise ValueError(f"views: expected some of {', '.join(VIEWS)}, got {self.views!r}")

    def _encoders(self) -> dict[str, Encode]:
        return encoders_for([name for name in self.views if name not in GRAMS])


def check_prompts(prompts: Any) -> list[str]:
    """Prompts as a list of strings.

    Raises:
        ValueError: Not a list of strings, or empty.
    """
    if isinstance(prompts, str | bytes) or not hasattr(prompts, "__len__"):
        raise ValueError(
            f"prompts: expected a list of strings, got {type(prompts).__name__}; wrap one prompt in a list"
        )
    found = list(prompts)
    for number, prompt in enumerate(found):
        if not isinstance(prompt, str):
            raise ValueError(f"prompts[{number}]: expected a string, got {type(prompt).__name__}")
    if not found:
        raise ValueError("prompts: expected at least one, got none (0 samples)")
    return found


def check_others(other_models: Any, n: int) -> NDArray[Any]:
    """Other models' outcomes as (n, n_models) fractions, nan where unknown.

    Raises:
        ValueError: Another shape, or values outside [0, 1].
    """
    found = np.asarray(other_models, dtype=float)
    found = found[:, None] if found.ndim == 1 else found
    if found.ndim != 2 or len(found) != n:
        raise ValueError(f"other_models: expected ({n}, n_models), got {found.shape}")
    if ((found < 0) | (found > 1)).any():
        raise ValueError("other_models: expected values from 0 (answered) to 1 (refused) or nan")
    return found


def read_labels(refused: Any, n: int) -> tuple[NDArray[Any], Array, Array]:
    """Labels as (classes, refused replies, all replies), the last two of shape (n,).

    Raises:
        ValueError: Another shape, not two kinds, or impossible counts.
    """
    found = np.asarray(refused)
    if found.shape[:1] != (n,) or found.ndim not in (1, 2) or (found.ndim == 2 and found.shape[1] != 2):
        raise ValueError(f"refused: expected ({n},) labels or ({n}, 2) counts, got {found.shape}")
    if found.ndim == 2:
        y, k = found.astype(float).T
        if not ((y >= 0) & (y <= k) & (k >= 1) & (y == y.round()) & (k == k.round())).all():
            raise ValueError("refused: expected whole counts with 0 <= refused <= replies and replies >= 1")
        if not 0 < y.sum() < k.sum():
            raise ValueError("refused: expected refused and answered replies, got one kind only (1 class)")
        return np.array([False, True]), y, k
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise ValueError("refused: expected labels, got NaN or infinity")
    classes = np.unique(found)
    if len(classes) != 2:
        raise ValueError(f"refused: expected two labels, got {len(classes)} ({len(classes)} class)")
    if found.dtype.kind == "f" and set(classes) != {0.0, 1.0} and (np.abs(classes) < 1).any():
        raise ValueError("refused: expected labels, got fractions; give counts (refused replies, all replies)")
    return classes, (found == classes[1]).astype(float), np.ones(n)


def _check_weight(sample_weight: Any, n: int) -> Array:
    found = np.asarray(sample_weight, dtype=float)
    if found.shape != (n,) or not np.isfinite(found).all() or (found < 0).any() or found.sum() == 0:
        raise ValueError(f"sample_weight: expected ({n},) finite weights, not negative and not all 0")
    return found

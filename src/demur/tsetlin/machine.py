"""A Tsetlin machine as a value: its clauses, their index, and how to teach and ask it. No labels, names or settings."""

from dataclasses import dataclass, field, replace

import numpy as np

from demur.tsetlin.arrays import Bits, Chances, Clauses, Index, Rates, Rows, Study, Whole, room
from demur.tsetlin.feedback import refill
from demur.tsetlin.indexing import reindex
from demur.tsetlin.lanes import BLOCK, LOW_PLANES, WORDS
from demur.tsetlin.learning import learn
from demur.tsetlin.presence import bits_of, flags_of
from demur.tsetlin.voting import Ballot, prepare, votes

POOL = 8192


@dataclass(frozen=True, kw_only=True, eq=False)
class LearningRates:
    """How a machine learns; see `TsetlinMachineClassifier` for what each does."""

    threshold: float
    specificity: float
    boost_true_positive: bool = True
    weighted: bool = True
    literal_budget: int | None = None
    clause_drop: float = 0.0
    batch_size: int = 32

    def odds(self) -> tuple[int, int]:
        """1/s as a fraction of a power of two, as small as it gets: (odds, precision)."""
        odds, precision = max(1, min(4095, round(4096 / self.specificity))), 12
        while odds % 2 == 0 and precision > 1:
            odds, precision = odds // 2, precision - 1
        return odds, precision


@dataclass(eq=False)
class Machine:
    """Clauses over a fixed number of features.

    `frequency` (how common each feature was in the first rows seen) only decides which required feature a clause is
    looked up by, never what it says.
    """

    clauses: Clauses
    frequency: Whole
    can_learn: bool = True
    _index: Index | None = field(default=None, repr=False)
    _ballot: Ballot | None = field(default=None, repr=False)

    @property
    def n_features(self) -> int:
        """Number of features."""
        return len(self.frequency)

    @property
    def n_banks(self) -> int:
        """Vote counts it keeps: one per class, or a single one for two classes."""
        return int(self.clauses.bank[-1]) + 1

    def votes(self, rows: Rows) -> Whole:
        """Votes of every bank; (n_rows, n_banks)."""
        return votes(self.ballot(), rows, self.n_banks)

    def ballot(self) -> Ballot:
        """The clauses laid out for voting."""
        if self._ballot is None:
            self._ballot = prepare(self.clauses, self.frequency)
        return self._ballot

    def literals(self) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.bool_]], ...]:
        """Which features each clause wants present, and which absent; two of (n_clauses, n_features)."""
        flags, half = flags_of(self.clauses.included), words_for(self.n_features) * 64
        present = flags[:, : self.n_features]
        if flags.shape[1] == half:
            return present, np.zeros_like(present)
        return present, flags[:, half : half + self.n_features]

    def learn(self, rows: Rows, labels: Whole, rates: LearningRates, generator: np.random.Generator) -> None:
        """Go through the rows once, in random order; labels are class numbers."""
        if self._index is None:
            self._index = _index(self.clauses, self.frequency)
        self._ballot = None
        n_clauses, n_words = self.clauses.included.shape
        chances = Chances(np.zeros(POOL + n_words, np.uint64), *rates.odds())
        refill(chances, 0, len(chances.words), np.uint64(generator.integers(2**63)))
        awake = np.zeros(64 * len(self._index.untriggered), bool)
        awake[:n_clauses] = generator.random(n_clauses) >= rates.clause_drop
        settings = Rates(
            float(rates.threshold),
            np.uint64(0xFFFFFFFFFFFFFFFF if rates.boost_true_positive else 0),
            int(rates.literal_budget or 0),
            int(rates.weighted),
            bits_of(awake),
        )
        order = generator.permutation(len(labels)).astype(np.int64)
        lessons, batch = room(rates.batch_size, self.clauses, real_bits(self.n_features))
        study = Study(self.clauses, self._index, settings, chances, lessons, batch)
        learn(study, rows, labels, order, np.uint64(generator.integers(2**63)))

    def levels(self) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
        """Counters as numbers from 0 to 255, included from 128; (n_clauses, n_literals)."""
        if not self.can_learn:
            flags = flags_of(self.clauses.included)[:, self._real_literals()]
            return np.asarray(flags.astype(np.uint8) << LOW_PLANES, np.uint8)
        n_clauses, shape = len(self.clauses.weight), (len(self.clauses.weight), -1, LOW_PLANES, WORDS)
        low = self.clauses.counters.reshape(shape)
        planes = [flags_of(low[:, :, k].reshape(n_clauses, -1)) for k in range(LOW_PLANES)]
        planes.append(flags_of(self.clauses.included))
        summed = sum((plane.astype(np.uint8) << k for k, plane in enumerate(planes)), np.uint8(0))
        return np.asarray(summed, np.uint8)[:, self._real_literals()]

    def set_levels(self, levels: np.ndarray[tuple[int, int], np.dtype[np.uint8]], weight: Whole) -> None:
        """Take over counters, as `levels` gives them, and weights."""
        padded = np.zeros((len(levels), self.clauses.included.shape[1] * 64), np.uint8)
        padded[:, self._real_literals()] = levels
        shape = (len(levels), -1, WORDS)
        low = [bits_of((padded >> k) & 1).reshape(shape) for k in range(LOW_PLANES)]
        self.clauses.counters[:] = np.stack(low, axis=2).reshape(len(levels), -1)
        self.clauses.included[:] = bits_of(padded >> LOW_PLANES)
        self.clauses.weight[:] = weight
        self._index = self._ballot = None

    def _real_literals(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        half = words_for(self.n_features) * 64
        return np.arange(self.clauses.included.shape[1] * 64) % half < self.n_features

    def with_literals(self, included: Bits, weight: Whole, sign: Whole | None = None) -> "Machine":
        """The same clauses with other literals, weights and signs, for voting only: it has no counters."""
        sign = self.clauses.sign if sign is None else sign
        counters = np.zeros((0, 0), np.uint64)
        clauses = self.clauses._replace(counters=counters, included=included, weight=weight, sign=sign)
        return replace(self, clauses=clauses, can_learn=False, _index=None, _ballot=None)


def words_for(n_features: int) -> int:
    """Words that hold one bit per feature, in whole blocks."""
    return -(-n_features // BLOCK) * WORDS


def real_bits(n_features: int) -> Bits:
    """Ones for the bits that stand for features."""
    return bits_of(np.arange(words_for(n_features) * 64) < n_features)


def new_machine(n_clauses: int, n_classes: int, frequency: Whole, *, negated_literals: bool = True) -> Machine:
    """Clauses that include nothing yet, each literal one step from being included.

    Args:
        n_clauses: In all; rounded up so that each bank gets as many for its class as against it.
        n_classes: Two classes share one bank, more have one each.
        frequency: How common each feature is; (n_features,).
        negated_literals: Whether clauses may ask for a feature to be absent.
    """
    banks = 1 if n_classes == 2 else n_classes
    pairs = max(1, -(-n_clauses // (2 * banks)))
    total, blocks = 2 * pairs * banks, words_for(len(frequency)) // WORDS * (2 if negated_literals else 1)
    counters = np.full((total, blocks * LOW_PLANES * WORDS), np.iinfo(np.uint64).max, np.uint64)
    clauses = Clauses(
        counters,
        np.zeros((total, blocks * WORDS), np.uint64),
        np.ones(total, np.int64),
        np.tile(np.repeat(np.array([1, -1], np.int64), pairs), banks),
        np.repeat(np.arange(banks, dtype=np.int64), 2 * pairs),
    )
    return Machine(clauses, frequency)


def _index(clauses: Clauses, frequency: Whole) -> Index:
    """Index clauses as they are; an empty clause, which fires while learning, waits for nothing."""
    n_clauses, words = len(clauses.weight), -(-len(clauses.weight) // 64)
    index = Index(
        np.zeros((len(frequency), words), np.uint64),
        np.zeros((len(frequency), words), np.uint64),
        bits_of(np.arange(words * 64) < n_clauses),
        np.zeros(n_clauses, np.int64),
        np.full(n_clauses, -1, np.int64),
        frequency,
    )
    nothing = np.zeros(clauses.included.shape[1], np.uint64)
    for clause in np.flatnonzero(clauses.included.any(axis=1)):
        reindex(clause, clauses.included, nothing, words_for(len(frequency)), index)
    return index

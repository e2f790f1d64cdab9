"""Attacks by the name the command line uses."""

from collections.abc import Callable

from demur.core.errors import UnknownNameError
from demur.stress.attempt import Attack
from demur.stress.cipher import CipherAttack
from demur.stress.code import CodeAttack
from demur.stress.completion import CompletionAttack
from demur.stress.history import HistoryAttack
from demur.stress.reformulator import TenseAttack

ATTACKS: dict[str, Callable[[], Attack]] = {
    "tense": TenseAttack,
    "completion": CompletionAttack,
    "cipher": CipherAttack,
    "code": CodeAttack,
    "history": HistoryAttack,
}
PREFILL = "prefill"  # a study of its own: see `demur.stress.forced`
NAMES = (*ATTACKS, PREFILL)


def load_attack(name: str) -> Attack:
    """An attack by name.

    Raises:
        UnknownNameError: There is none of that name.
    """
    if name not in ATTACKS:
        raise UnknownNameError("attack", name, NAMES)
    return ATTACKS[name]()

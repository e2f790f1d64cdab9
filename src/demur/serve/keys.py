"""API keys: who may call, which policies each may choose, and the floor below which none of its requests goes."""

import hmac
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from demur.core.errors import BadInputError
from demur.core.exchange import Frozen
from demur.serve.book import PolicyBook
from demur.serve.faults import unauthorized

SHORTEST = 16
_HASH = re.compile(r"[0-9a-f]{64}")
Count = Annotated[int, Field(gt=0)]


class ApiKey(Frozen):
    """What the bearer of a key may do.

    Attributes:
        name: Written to logs instead of the key.
        sha256: Hash of the key, 64 hexadecimal digits; empty for requests without one.
        policies: Policies its requests may choose; None = every one.
        floor: Policy that declines whatever it declines, whichever was chosen; None = no floor.
        may_loosen: Whether its requests may raise thresholds.
        requests_per_minute: Limit; None = no limit.
        max_concurrent: Most requests at a time; None = no limit.
    """

    name: str
    sha256: str = ""
    policies: tuple[str, ...] | None = None
    floor: str | None = None
    may_loosen: bool = False
    requests_per_minute: Count | None = None
    max_concurrent: Count | None = None


ANYBODY = ApiKey(name="anybody")


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Every key of a server; an empty ring lets anybody in."""

    keys: tuple[ApiKey, ...] = ()

    def bearer(self, authorization: bytes | None) -> ApiKey:
        """Whose key an Authorization header holds.

        Every key is compared in constant time, whichever fits.

        Raises:
            Fault: 401.
        """
        if not self.keys:
            return ANYBODY
        scheme, _, given = (authorization or b"").strip().partition(b" ")
        digest = sha256(given.strip()).hexdigest()
        fits = [hmac.compare_digest(digest, key.sha256) for key in self.keys]
        if scheme.lower() != b"bearer" or not any(fits):
            raise unauthorized()
        return self.keys[fits.index(True)]


NO_KEYS = KeyRing()


def read_keys(path: Path) -> KeyRing:
    """Keys of a TOML file: [[key]] tables with name, key or sha256, and what it may do.

    Raises:
        BadInputError: The file does not have that form.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path}: expected a TOML file of keys; {str(error).splitlines()[0]}") from None
    rows = table.get("key")
    if set(table) != {"key"} or not isinstance(rows, list) or not rows:
        raise BadInputError(f"{path}: expected [[key]] tables and nothing else, got {', '.join(table) or 'nothing'}")
    keys = tuple(_key(row, f"{path}: key {i + 1}") for i, row in enumerate(rows))
    for field in ("name", "sha256"):
        _check_unique([getattr(key, field) for key in keys], f"{path}: {field}")
    return KeyRing(keys)


def check_keys(ring: KeyRing, book: PolicyBook) -> None:
    """Check that every policy that keys name is in the book, for every model.

    Raises:
        BadInputError: One is not: a floor that is missing would be no floor.
    """
    for key in ring.keys:
        for name in (*(key.policies or ()), *([key.floor] if key.floor else [])):
            lacking = [model for model, shelf in book.shelves.items() if name not in shelf]
            if lacking:
                raise BadInputError(f"key {key.name!r} names policy {name!r}, which {lacking[0]} does not have; add it")


def _key(row: dict[str, Any], where: str) -> ApiKey:
    row = dict(row)
    plain = row.pop("key", None)
    if (plain is None) == ("sha256" not in row):
        raise BadInputError(f"{where}: expected key or sha256, got {'neither' if plain is None else 'both'}")
    if plain is not None:
        if not isinstance(plain, str) or len(plain) < SHORTEST or not plain.isascii() or plain != plain.strip():
            raise BadInputError(f"{where}: key: expected at least {SHORTEST} ASCII characters; make a longer one")
        row["sha256"] = sha256(plain.encode("ascii")).hexdigest()
    try:
        key = ApiKey.model_validate(row)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise BadInputError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None
    if not _HASH.fullmatch(key.sha256):
        raise BadInputError(f"{where}: sha256: expected 64 hexadecimal digits in lower case")
    return key


def _check_unique(values: Sequence[str], where: str) -> None:
    if len(set(values)) < len(values):
        raise BadInputError(f"{where}: expected a different one for each key; two are alike")

"""Public names of a package, imported when they are first used, so that importing the package costs nothing."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from demur.core.errors import MissingExtraError


def lazy_names(
    package: str, homes: Mapping[str, str], *, extra: str = "", modules: frozenset[str] = frozenset()
) -> Callable[[str], Any]:
    """The `__getattr__` of a package.

    Args:
        package: Its full name.
        homes: Module of each public name.
        extra: Extra that brings `modules`.
        modules: Optional modules whose absence is reported as the missing extra.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(import_module(homes[name]), name)
        except ModuleNotFoundError as missing:
            if missing.name in modules:
                raise MissingExtraError(name, extra=extra) from missing
            raise

    return get

"""Compile kernels with Numba, once per machine: the machine code is cached beside the source or in the user's cache.

Numba notices an edited function but not an edited callee in another file: after changing a kernel, delete the
`*.nbc` and `*.nbi` files in `__pycache__`.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from demur.core.errors import MissingExtraError

try:
    from numba import njit
except ImportError as missing:
    raise MissingExtraError("the Tsetlin machine", extra="classify") from missing

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def compiled(function: Kernel) -> Kernel:
    """Compile on first call, without the interpreter lock."""
    try:
        return cast(Kernel, njit(nogil=True, cache=True)(function))
    except RuntimeError:  # nowhere to write a cache: a read-only install without a home folder
        return cast(Kernel, njit(nogil=True)(function))

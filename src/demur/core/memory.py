"""Freed memory kept for reuse: what tensor work on a processor allocates, it allocates again at once."""

import ctypes
import sys

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _TOP_PAD = -3, -1, -2  # numbers of glibc's mallopt(3)
# Larger tensors still come and go: kept at ever new sizes, as logits are, they would leave holes that nothing fits.
_LARGEST_KEPT = 2**25
_KEPT_AT_MOST = 2**30
_STEP = 2**26


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed instead of handing it back; for jobs that end with the process.

    By default glibc returns every large tensor to the system and asks for it again a moment later, zeroed page by
    page: a third of the processor time of a LoRA run on a small model.

    Returns:
        Whether it was arranged; only glibc knows how. Results that stay should be written into room made beforehand:
        kept between tensors that come and go, they pin the memory around them.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_MMAP_THRESHOLD, _LARGEST_KEPT), (_TRIM_THRESHOLD, _KEPT_AT_MOST), (_TOP_PAD, _STEP))
    return all(mallopt(number, value) == 1 for number, value in settings)

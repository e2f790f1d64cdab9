"""Most memory in use between two moments: of the accelerator, or of this process."""

import sys
from pathlib import Path
from typing import Any

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def watch_memory(device: Any) -> None:
    """Begin to watch; on Linux and on CUDA devices what was in use before is forgotten."""
    if getattr(device, "type", "cpu") == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        _RESET.write_text("5", encoding="ascii")
    except OSError:
        pass  # the peak of the whole process is reported instead


def peak_memory(device: Any) -> int:
    """Most bytes in use since `watch_memory`."""
    if getattr(device, "type", "cpu") == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    if _STATUS.is_file():
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        found = next((line for line in lines if line.startswith("VmHWM:")), "")
        if found:
            return int(found.split()[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024

"""demur: when should a language model say no, and how to make it say no exactly then.

Public names are resolved lazily, so importing the package costs nothing.
"""

from demur.core.lazy import lazy_names

__version__ = "0.1.0"

_PUBLIC = {
    "Exchange": "demur.core.exchange",
    "Message": "demur.core.exchange",
    "Verdict": "demur.core.verdict",
    "Taxonomy": "demur.core.taxonomy",
    "load_taxonomy": "demur.core.taxonomy",
    "load_suite": "demur.suites",
    "load_judge": "demur.judges",
    "audit": "demur.jobs.audit",
    "compare": "demur.jobs.compare",
}
__all__ = ["__version__", *_PUBLIC]

__getattr__ = lazy_names(__name__, _PUBLIC)

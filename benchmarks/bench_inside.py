"""Looking inside, measured: runs every part in benchmarks/inside_*.py, or those named, and records each by itself.

A part is a module with NAME (shown), PACKAGES (whose versions matter) and run(models, quick, work, progress) -> dict.
Run from the checkout: python benchmarks/bench_inside.py smollm2+ADAPTER [more adapters] [--part directions] [--quick]
"""

import argparse
import importlib
import sys
import time
from pathlib import Path

from record import record

HERE = Path(__file__).parent


def parts():
    """Modules by short name, e.g. {'directions': module}."""
    names = sorted(path.stem for path in HERE.glob("inside_*.py"))
    return {name.removeprefix("inside_"): name for name in names}


def shown(stage, done, total):
    if done == total or done % 50 == 0:
        print(f"  {stage}: {done}/{total}", file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="models with refusals, one for each training seed")
    parser.add_argument("--part", action="append", choices=sorted(parts()), help="repeatable; all by default")
    parser.add_argument("--quick", action="store_true", help="a few prompts: shows that it runs, measures nothing")
    parser.add_argument("--work", type=Path, default=HERE / "results" / "inside", help="folder for runs; resumed")
    given = parser.parse_args()
    for name in given.part or sorted(parts()):
        module = importlib.import_module(parts()[name])
        print(f"{module.NAME}:", file=sys.stderr, flush=True)
        started = time.perf_counter()
        result = module.run(given.models, quick=given.quick, work=given.work / name, progress=shown)
        result["seconds"] = round(time.perf_counter() - started, 1)
        record(f"inside_{name}{'_quick' if given.quick else ''}", result, packages=module.PACKAGES)


if __name__ == "__main__":
    main()

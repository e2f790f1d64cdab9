"""Rival libraries, each in a folder of its own: their requirements need not agree."""

import subprocess
import sys


def install(folder, rivals):
    """Install each rival into a folder of its own; one that fails is named and left out."""
    for name, packages in rivals.items():
        target = folder / name
        if target.exists():
            continue
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), *packages]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "rror" in line]
            print(f"{name}: cannot be installed: {(lines or ['?'])[0][:160]}")
            target.mkdir(parents=True, exist_ok=True)

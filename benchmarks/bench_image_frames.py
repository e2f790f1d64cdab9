"""Empty frames against ordinary pictures: false positives, misses, and time for a picture.

Run: python benchmarks/bench_image_frames.py [--each 50]
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the pictures are the tests'

from tests.image_vendors import encoded, png_of_size
from tests.ordinary_pictures import empty_frames, ordinary

from demur.images.frames import look_at


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=50, help="pictures of each of the fourteen families")
    pictures = list(ordinary(parser.parse_args().each))
    started = time.process_time()
    mistaken = Counter(family for family, data in pictures if look_at(data).kind in ("black", "white"))
    spent = time.process_time() - started
    frames = list(empty_frames())
    missed = sum(look_at(data).kind != kind for kind, data in frames)
    exact = sum(not look_at(data).exactly_black for kind, data in frames if kind == "black")
    n_black = sum(kind == "black" for kind, _ in frames)
    print(f"ordinary pictures taken for empty frames: {sum(mistaken.values())} of {len(pictures)} {dict(mistaken)}")
    print(f"empty frames missed: {missed} of {len(frames)}; an all-zero test misses {exact} of {n_black} black ones")
    print(f"time: {1000 * spent / len(pictures):.2f} ms CPU a picture")
    for side, data in (("1 megapixel", _one_megapixel()), ("50 megapixels", png_of_size(10_000, 5_000))):
        started = time.process_time()
        look_at(data)
        print(f"{side}: {time.process_time() - started:.2f} s CPU")


def _one_megapixel():
    import numpy as np
    from PIL import Image

    values = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3), dtype=np.uint8)
    return encoded(Image.fromarray(values), "JPEG", quality=90)


if __name__ == "__main__":
    main()

"""Ordinary pictures that an empty-frame test may mistake: dark, light, blurred, sparse; and frames that are empty."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZES = ((256, 256), (320, 180), (192, 288))
WRAPPINGS = (("PNG", {}), ("JPEG", {"quality": 85}), ("JPEG", {"quality": 35}), ("WEBP", {"quality": 70}))


def ordinary(n_each=15):
    """Yields (family, file bytes): fourteen families of pictures, each with `n_each` members."""
    for number, (family, draw) in enumerate(FAMILIES.items()):
        for i in range(n_each):
            rng = np.random.default_rng(1000 * number + i)
            yield family, wrapped(draw(rng, *SIZES[i % len(SIZES)]), i)


def empty_frames():
    """Yields (kind, file bytes): black and white frames as checkers, hosts and re-encoders leave them."""
    for i in range(len(WRAPPINGS) * len(SIZES)):
        width, height = SIZES[i % len(SIZES)]
        rng = np.random.default_rng(i)
        for kind, level in (("black", 0), ("white", 255)):
            for noise in (0, 2):
                spots = rng.integers(0, noise + 1, (height, width, 3))
                flat = np.clip(np.abs(level - spots), 0, 255).astype(np.uint8)
                yield kind, wrapped(Image.fromarray(flat), i)
            framed = Image.new("RGB", (width, height), (level,) * 3)
            ImageDraw.Draw(framed).rectangle((0, 0, width - 1, height - 1), outline=(128, 128, 128), width=3)
            yield kind, wrapped(framed, 0)


def wrapped(image, number):
    kind, settings = WRAPPINGS[number % len(WRAPPINGS)]
    out = io.BytesIO()
    image.convert("RGB").save(out, kind, **settings)
    return out.getvalue()


def field(rng, width, height, low, high, grain=8):
    """Smooth random luminance between two levels."""
    rough = rng.random((max(2, height // grain), max(2, width // grain), 3)) * 255
    soft = np.asarray(Image.fromarray(rough.astype(np.uint8)).resize((width, height), 3), dtype=float)
    return low + soft / 255 * (high - low)


def picture_of(values):
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def gradient(rng, width, height):
    low, high = rng.uniform(0, 30), rng.uniform(60, 255)
    ramp = np.linspace(low, high, width)[None, :, None] * np.linspace(0.7, 1, height)[:, None, None]
    return picture_of(np.repeat(ramp, 3, axis=2))


def dark_gradient(rng, width, height):
    ramp = np.linspace(0, rng.uniform(24, 45), height)[:, None, None]
    return picture_of(np.repeat(np.repeat(ramp, width, axis=1), 3, axis=2))


def stars(rng, width, height):
    values = np.zeros((height, width, 3)) + rng.uniform(0, 4)
    for _ in range(int(rng.integers(30, 120))):
        values[rng.integers(height), rng.integers(width)] = rng.uniform(90, 255)
    return picture_of(values).filter(ImageFilter.GaussianBlur(0.6))


def night_street(rng, width, height):
    image = picture_of(field(rng, width, height, 0, 14))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 7))):
        x, y, r = rng.integers(width), rng.integers(height // 2), int(rng.integers(2, 6))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(250, 220, 150))
    return image.filter(ImageFilter.GaussianBlur(1.5))


def candle(rng, width, height):
    y, x = np.mgrid[:height, :width]
    cx, cy = rng.uniform(0.3, 0.7) * width, rng.uniform(0.3, 0.7) * height
    glow = rng.uniform(60, 160) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * rng.uniform(10, 30) ** 2))
    return picture_of(np.stack([glow, glow * 0.7, glow * 0.3], axis=2))


def underexposed(rng, width, height):
    return picture_of(field(rng, width, height, 0, rng.uniform(22, 40)) + rng.normal(0, 2, (height, width, 3)))


def fog(rng, width, height):
    return picture_of(field(rng, width, height, rng.uniform(200, 225), rng.uniform(238, 255), grain=40))


def snow(rng, width, height):
    image = picture_of(field(rng, width, height, 232, 255))
    draw = ImageDraw.Draw(image)
    x = int(rng.integers(width // 4, width // 2))
    draw.line((x, height // 3, x + 3, height - 20), fill=(90, 80, 70), width=2)
    return image


def page(rng, width, height):
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for y in range(20, height - 20, 14):
        draw.text((18, y), "".join(rng.choice(list("abcdefghij klmnop"), 24)), fill=(20, 20, 20))
    return image


def sign(rng, width, height):
    image = Image.new("RGB", (width, height), "black")
    ImageDraw.Draw(image).text((width // 3, height // 2), "OPEN", fill=(int(rng.integers(120, 256)), 40, 40))
    return image


def noise(rng, width, height):
    return picture_of(rng.normal(rng.uniform(20, 230), rng.uniform(6, 60), (height, width, 3)))


def blurred(rng, width, height):
    return picture_of(field(rng, width, height, 20, 230, grain=60)).filter(ImageFilter.GaussianBlur(12))


def silhouette(rng, width, height):
    image = Image.new("RGB", (width, height), (0, 0, 0))
    sky = int(rng.integers(25, 70))
    ImageDraw.Draw(image).rectangle((0, 0, width, int(height * rng.uniform(0.15, 0.5))), fill=(sky, sky // 2, sky // 3))
    return image.filter(ImageFilter.GaussianBlur(3))


def product(rng, width, height):
    image = Image.new("RGB", (width, height), "white")
    r = int(rng.integers(8, 30))
    x, y = width // 2, height // 2
    shade = int(rng.integers(120, 235))
    ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), fill=(shade, shade, shade))
    return image


FAMILIES = {
    "gradient": gradient, "dark gradient": dark_gradient, "stars": stars, "night street": night_street,
    "candle": candle, "underexposed": underexposed, "fog": fog, "snow": snow, "page of text": page,
    "sign on black": sign, "noise": noise, "blurred": blurred, "silhouette": silhouette, "product on white": product,
}  # fmt: skip

"""Rebuild the sprite atlas from the three openly licensed emoji packages.

The packages come from the npm registry::

    npm pack emoji-datasource-google emoji-datasource-twitter @lobehub/fluent-emoji-3d
    # unpack each into its own folder, then
    python -m redi.embedded.build_atlas --google DIR --twitter DIR --fluent DIR

The result is `redi/assets/atlas.webp` (lossless RGBA, one row per concept, one column per drawing
style, cells of 64x64) and `redi/assets/concepts.json`, the ordered list of concepts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image

from redi.embedded.atlas import ASSETS, CELL, STYLES

# short name in the emoji data -> noun used in captions. The first 32 are the objects in use
# (`redi.embedded.scenes.OBJECTS`), chosen for silhouettes and colours that differ; the rest is
# reserve.
CONCEPTS = {
    "apple": "apple", "banana": "banana", "strawberry": "strawberry", "carrot": "carrot",
    "mushroom": "mushroom", "hamburger": "burger", "doughnut": "donut", "corn": "corn cob",
    "evergreen_tree": "pine tree", "cactus": "cactus", "sunflower": "sunflower", "tulip": "tulip",
    "fox_face": "fox", "panda_face": "panda", "frog": "frog", "pig": "pig",
    "penguin": "penguin", "tropical_fish": "fish", "butterfly": "butterfly", "turtle": "turtle",
    "octopus": "octopus", "snail": "snail", "blue_car": "car", "rocket": "rocket",
    "boat": "sailboat", "house": "house", "soccer": "soccer ball", "umbrella": "umbrella",
    "balloon": "balloon", "guitar": "guitar", "gift": "gift box", "key": "key",
    "pineapple": "pineapple", "watermelon": "watermelon", "grapes": "bunch of grapes",
    "lemon": "lemon", "cherries": "pair of cherries", "pear": "pear", "peach": "peach",
    "tomato": "tomato", "eggplant": "eggplant", "avocado": "avocado", "broccoli": "broccoli",
    "pizza": "pizza slice", "icecream": "ice cream cone", "cookie": "cookie", "cupcake": "cupcake",
    "birthday": "birthday cake", "taco": "taco", "croissant": "croissant",
    "palm_tree": "palm tree", "deciduous_tree": "leafy tree", "rose": "rose",
    "four_leaf_clover": "clover", "maple_leaf": "maple leaf", "hibiscus": "hibiscus",
    "cat": "cat", "dog": "dog", "rabbit": "rabbit", "mouse": "mouse", "koala": "koala",
    "tiger": "tiger", "lion_face": "lion", "cow": "cow", "monkey_face": "monkey",
    "bear": "bear", "hamster": "hamster", "wolf": "wolf", "owl": "owl", "eagle": "eagle",
    "duck": "duck", "hatching_chick": "chick", "crab": "crab", "shrimp": "shrimp", "squid": "squid",
    "whale": "whale", "dolphin": "dolphin", "bee": "bee", "ladybug": "ladybug",
    "elephant": "elephant", "bus": "bus", "taxi": "taxi", "fire_engine": "fire engine",
    "tractor": "tractor", "helicopter": "helicopter", "airplane": "airplane", "tent": "tent",
    "castle": "castle", "basketball": "basketball", "tennis": "tennis ball", "trophy": "trophy",
    "drum_with_drumsticks": "drum", "violin": "violin", "crown": "crown", "gem": "gem",
    "bell": "bell", "bulb": "light bulb", "book": "book", "camera": "camera",
    "alarm_clock": "alarm clock", "candle": "candle", "lock": "lock", "magnet": "magnet",
    "scissors": "pair of scissors", "snowman": "snowman",
}  # fmt: skip


def _square(image: Image.Image) -> Image.Image:
    """Crop to the opaque box, centre on a transparent square and resize to one atlas cell."""
    image = image.convert("RGBA")
    box = image.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox()
    image = image.crop(box)
    side = max(image.size)
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    # Resizing premultiplied colour keeps transparent pixels from bleeding into the outline.
    return square.convert("RGBa").resize((CELL, CELL), Image.Resampling.LANCZOS).convert("RGBA")


def _sprite(style: str, record: dict[str, str], roots: dict[str, Path]) -> Image.Image | None:
    if style == "3d":
        names = {record["unified"].lower(), record["unified"].lower().replace("-fe0f", "")}
        paths = [roots[style] / "assets" / f"{name}.webp" for name in sorted(names)]
    else:
        vendor = {"noto": "google", "flat": "twitter"}[style]
        paths = [roots[style] / "img" / vendor / "64" / record["image"]]
    found = next((path for path in paths if path.is_file()), None)
    return None if found is None else _square(Image.open(found))


def build(google: Path, twitter: Path, fluent: Path) -> None:
    """Write the atlas and the concept list into the package's assets folder."""
    roots = {"noto": google, "flat": twitter, "3d": fluent}
    records = {r["short_name"]: r for r in json.loads((google / "emoji.json").read_text())}
    rows, listed = [], []
    for short_name, noun in CONCEPTS.items():
        record = records.get(short_name)
        drawn = [_sprite(style, record, roots) for style in STYLES] if record else []
        sprites = [sprite for sprite in drawn if sprite is not None]
        if record is None or len(sprites) < len(STYLES):
            print(f"left out {short_name}: not drawn in all of {', '.join(STYLES)}")
            continue
        rows.append(sprites)
        listed.append({"noun": noun, "code_point": record["unified"].split("-")[0]})
    atlas = Image.new("RGBA", (CELL * len(STYLES), CELL * len(rows)))
    for row, sprites in enumerate(rows):
        for column, sprite in enumerate(sprites):
            atlas.paste(sprite, (CELL * column, CELL * row))
    ASSETS.mkdir(exist_ok=True)
    atlas.save(ASSETS / "atlas.webp", lossless=True, method=6, exact=False)
    (ASSETS / "concepts.json").write_text(
        "[\n" + ",\n".join("  " + json.dumps(item) for item in listed) + "\n]\n"
    )
    print(f"{len(rows)} concepts x {len(STYLES)} styles written to the package's assets")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("google", "twitter", "fluent"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="unpacked npm package")
    build(**vars(parser.parse_args()))

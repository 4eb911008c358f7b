"""Files that must be read rightly, or refused by name; and content that must be noticed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from case import SMALL, Case
from PIL import Image

from redi import cli, files
from redi.config import Config, MetricsConfig
from redi.data.pictures import read_picture
from redi.data.prompt_files import read_prompts
from redi.embedded.atlas import ASSETS
from redi.metrics.images import clean_features
from redi.metrics.real import real_pictures

KB, QUERY = "a cat on a blue background\na dog\na fox\nan owl\n", "a bear\na wolf\n"
FILES = (*SMALL, "data=file", "data.kb_file=kb.txt", "data.query_file=query.txt")


def write(kb: bytes | str = KB, query: bytes | str = QUERY) -> None:
    for name, content in (("kb.txt", kb), ("query.txt", query)):
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)


def prompts(told: str, content: bytes, *words: str, name: str = "kb.txt") -> Case:
    """A prompt file that is refused."""

    def prepare() -> None:
        write()
        Path(name).write_bytes(content)

    command = (*FILES, f"data.kb_file={name}")
    return Case(f"prompt file: {told}", (prepare, command), (name, *words))


def reads(told: str, content: bytes, wanted: list[str], name: str = "kb.txt") -> Case:
    """A prompt file that is read rightly."""

    def call() -> None:
        Path(name).write_bytes(content)
        found = read_prompts(Path(name), name)
        if found != wanted:
            raise AssertionError(f"{found} in place of {wanted}")

    return Case(f"prompt file: {told}", (call,), refused=False, after=lambda: "read rightly")


def picture(told: str, make: Callable[[], Image.Image], name: str, *words: str) -> Case:
    """A picture of one colour, read rightly where no words of a refusal are given."""

    def call() -> None:
        make().save(name)
        gap = abs(read_picture(Path(name)).astype(int) - 96).max()
        if gap > 2:
            raise AssertionError(f"{name} is off by {gap} levels")

    refused = bool(words)
    after = (lambda: "") if refused else (lambda: "read rightly")
    return Case(f"real picture: {told}", (call,), words, refused, after)


def grey(dtype: type = np.uint8, level: int = 96) -> Image.Image:
    return Image.fromarray(np.full((8, 8), level, dtype))


def huge() -> Image.Image:
    return Image.new("1", (20000, 20000))


def edited(told: str, change: Callable[[], object], command: tuple[str, ...] = FILES) -> Case:
    """The same command before and after an input changed: two runs."""

    def after() -> str:
        runs = list(Path("outputs/runs").glob("*/results.json"))
        if len(runs) != 2:
            raise AssertionError(f"{len(runs)} run")
        return "computed anew"

    return Case(told, (_prepare, command, change, command), refused=False, after=after)


def _prepare() -> None:
    write()
    shutil.copytree(ASSETS / "emoji-scenes", "model")


def _weights() -> None:
    path = next(Path("model/unet").glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _overlap() -> str:
    (path,) = Path("outputs/runs").glob("*/results.json")
    found = json.loads(path.read_text())["provenance"]["overlap"]
    return f"counted: {found['same_prompt_and_noise']} of {found['queries']}"


def unusual() -> None:
    """A folder of pictures of one colour in unusual files, as FID reads them."""
    Path("real").mkdir()
    grey(np.uint16, 96 * 257).save("real/deep.png")
    grey().convert("P").save("real/palette.png")
    grey().convert("RGB").convert("CMYK").save("real/cmyk.jpg")
    config = Config(metrics=MetricsConfig(real_folder="real"))
    found = clean_features(real_pictures(config), lambda x: x.mean((2, 3)))
    gap = np.abs(found - 96).max()
    if found.shape != (3, 3) or gap > 2:
        raise AssertionError(f"features of {found.shape} are off by {gap}")


def huge_among_real() -> None:
    Path("real").mkdir()
    grey().save("real/small.png")
    huge().save("real/huge.png")
    real_pictures(Config(metrics=MetricsConfig(real_folder="real")))


def full_disk(below: str, line: tuple[str, ...]) -> Callable[[], None]:
    """A command while the disk is full for files below a folder."""

    def call() -> None:
        original = files.sync

        def sync(descriptor: int, path: Path) -> None:
            if below in str(path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            original(descriptor, path)

        files.sync = sync
        sys.argv = ["redi", *line]
        try:
            cli.main()
        finally:
            files.sync = original

    return call


def not_finite() -> None:
    """One value of one stored trajectory becomes NaN, as in a KB from a stranger."""
    (path,) = Path("kb/step_0004").glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()
    path.write_bytes(content)


def two_points() -> str:
    found = list(Path("outputs").rglob("results.json"))
    if len(found) != 2:
        raise AssertionError(f"{len(found)} points")
    return "two points"


def one_point() -> str:
    found = list(Path("outputs").rglob("results.json"))
    if len(found) != 1:
        raise AssertionError(f"{len(found)} points")
    return "one point: what the KBs hold is the same, so the second is skipped as finished"


BUILD_A, BUILD_B = (("kb", "build", *SMALL, f"kb.dir={name}") for name in "ab")
FIT = (*SMALL, "kb.dir=kb", "correction.calls=[2]", "correction.trials=2", "correction.folds=2",
       "correction.levels=[even]", "correction.against=[ddim]", "kb.size=4", "kb.shard_size=4",
       "kb.check_hashes=false")  # fmt: skip
MODEL = (*FILES, "model=local", "model.path=model")
INPUTS = [
    edited("another prompt in kb.txt", lambda: write(kb="a swan\n" + KB)),
    edited("another prompt in query.txt", lambda: write(query="a swan\n" + QUERY)),
    edited("one bit of the weights in model.path", _weights, MODEL),
    Case(
        "redi -m kb.dir=a,b, of other trajectories",
        (
            (*BUILD_A, "kb.size=4"),
            ("kb", "subset", "a", "b", "size=2", "seed=1"),
            ("-m", *SMALL, "kb.dir=a,b"),
        ),
        refused=False,
        after=two_points,
    ),
    Case(
        "redi -m kb.dir=a,b, of equal content",
        (BUILD_A, BUILD_B, ("-m", *SMALL, "kb.dir=a,b")),
        refused=False,
        after=one_point,
    ),
    Case(
        "the disk is full where a reference run is kept",
        (full_disk("reference", (*SMALL, "reference_root=reference")),),
        ("the disk is full", "reference"),
    ),
    Case(
        "the disk is full where a correction is kept",
        (full_disk("kb/fits", FIT),),
        ("the disk is full", "fits"),
    ),
    Case(
        "NaN in a stored trajectory, then a fit",
        (("kb", "build", *FIT), not_finite, FIT),
        ("trajectory 3", "not finite"),
    ),
    Case(
        "one file for KB and queries",
        (lambda: write(query=KB), FILES),
        ("2 of 2 queries are in the KB",),
    ),
    Case(
        "the same, data.allow_overlap=true",
        (lambda: write(query=KB), (*FILES, "data.allow_overlap=true")),
        ("2 with the same noise",),
        refused=False,
        after=_overlap,
    ),
    Case(
        "a prompt with markup and escape sequences",
        (lambda: write(query="[/b] \x1b[31mred\n[red]a[/red] =1+1\n"), FILES),
        refused=False,
        after=lambda: "printed as it is",
    ),
    reads("with a byte order mark", b"\xef\xbb\xbfa cat\r\na dog\r\n", ["a cat", "a dog"]),
    reads("U+2028, U+0085, form feed", "a\u2028b\x85c\x0cd\n".encode(), ["a\u2028b\x85c\x0cd"]),
    reads(".csv", b'caption\n"a cat, red"\n', ["a cat, red"], "kb.csv"),
    prompts("Latin-1", "a Füchslein".encode("latin-1"), "is not UTF-8"),
    prompts("UTF-16", "a cat".encode("utf-16"), "is not UTF-8"),
    prompts("empty", b"", "holds no prompt"),
    prompts(".csv with two columns", b"id,caption\n1,a\n", "data.column", name="kb.csv"),
    prompts("damaged .parquet", b"PAR1", "not a Parquet file", name="kb.parquet"),
    picture("grey, 16 bits", lambda: grey(np.uint16, 96 * 257), "deep.png"),
    picture("palette", lambda: grey().convert("P"), "palette.png"),
    picture("CMYK", lambda: grey().convert("RGB").convert("CMYK"), "cmyk.jpg"),
    Case(
        "metrics.real_folder: 16 bits, palette, CMYK",
        (unusual,),
        refused=False,
        after=lambda: "read rightly",
    ),
    Case("metrics.real_folder: 400 megapixels", (huge_among_real,), ("huge.png", "pixels")),
    picture("400 megapixels", huge, "huge.png", "huge.png", "pixels"),
    picture(
        "see-through", lambda: grey().convert("LA").point(lambda v: v // 2), "la.png", "la.png"
    ),
]

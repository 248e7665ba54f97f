"""PP-OCR's recogniser and detector on text rendered with Debian's DejaVu fonts."""

import string
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from benchmarks import packages, wordnet
from benchmarks.scores import Score, f1, mean, ratio
from benchmarks.sessions import open_session

LINES = 200
PAGES = 25
_HEIGHT = 48
_MIN_WIDTH = 320
_PAGE = (736, 736)
# The task's texts come from the front of the shuffled nouns; calibration starts behind them.
_CALIBRATION_OFFSET = 40_000
_PRINTABLE = frozenset(string.ascii_letters + string.digits + " ,.;:-()'!?")


@cache
def _fonts() -> tuple[Path, ...]:
    return tuple(sorted((packages.debian("fonts-dejavu-core") / "usr/share/fonts/truetype/dejavu").glob("*.ttf")))


def _texts(offset: int, count: int, longest: int) -> list[str]:
    """Return `count` beginnings of definitions, cut between words, of plain characters only."""
    texts: list[str] = []
    for noun in wordnet.nouns()[offset:]:
        words = noun.definition.split()
        while words and len(" ".join(words)) > longest:
            words.pop()
        line = " ".join(words)
        if len(line) > longest // 2 and set(line) <= _PRINTABLE:
            texts.append(line)
        if len(texts) == count:
            break
    return texts


def _render(text: str, font: Path, size: int, generator: np.random.Generator) -> Image.Image:
    """Draw dark text on a light ground with a margin and noise."""
    face = ImageFont.truetype(str(font), size)
    left, top, right, bottom = face.getbbox(text)
    margin = size // 5
    image = Image.new("L", (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin), 245)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, fill=25, font=face)
    noisy = np.asarray(image, dtype=np.float32) + generator.normal(0, 14, (image.height, image.width))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _strips(offset: int, count: int) -> list[tuple[str, NDArray[np.float32]]]:
    """Return texts with their line images [1, 3, 48, width], scaled to -1 … 1, padded to 320 at least with zeros."""
    generator = np.random.default_rng(offset)
    strips = []
    for number, text in enumerate(_texts(offset, count, 34)):
        size = int(generator.integers(11, 28))
        line = _render(text, _fonts()[number % len(_fonts())], size, generator)
        width = round(line.width * _HEIGHT / line.height)
        grey = np.asarray(line.resize((width, _HEIGHT), Image.Resampling.BILINEAR), dtype=np.float32) / 127.5 - 1
        strip = np.zeros((1, 3, _HEIGHT, max(_MIN_WIDTH, width)), np.float32)
        strip[..., :width] = grey
        strips.append((text, strip))
    return strips


def recognition(path: Path) -> tuple[Score, Score]:
    """Character error without spaces, and share of lines read without error, of the recogniser at `path`."""
    session = open_session(path)
    # The reference carries its alphabet; a candidate that lost it fails here, as it would for its user.
    alphabet = ["", *session.get_modelmeta().custom_metadata_map["character"].splitlines(), " "]
    errors = []
    for text, strip in _strips(0, LINES):
        best = session.run(None, {"x": strip})[0][0].argmax(axis=1)
        kept = best[np.flatnonzero(np.diff(best, prepend=-1))]
        read, wanted = ("".join(part.split()) for part in ("".join(alphabet[index] for index in kept), text))
        errors.append((edit_distance(read, wanted), len(wanted)))
    items = np.array(errors, dtype=float)
    return (
        Score(task="rendered lines character error", items=items, statistic=ratio, higher_is_better=False),
        Score(task="rendered lines read exactly", items=(items[:, :1] == 0).astype(float), statistic=mean),
    )


def detection(path: Path) -> tuple[Score]:
    """F1 of found lines at an overlap of half, of the detector at `path`, on rendered pages."""
    session = open_session(path)
    items = []
    for page, wanted in _pages(0, PAGES):
        found = _boxes(session.run(None, {"x": page})[0][0, 0])
        hits = sum(any(_overlap(box, other) >= 0.5 for other in found) for box in wanted)
        items.append((hits, len(found), len(wanted)))
    return (Score(task="rendered pages F1@.5", items=np.array(items, dtype=float), statistic=f1),)


def _pages(offset: int, count: int) -> list[tuple[NDArray[np.float32], list[tuple[int, int, int, int]]]]:
    """Return pages [1, 3, 736, 736] with the boxes (left, top, right, bottom) of their lines."""
    generator = np.random.default_rng(offset + 1)
    texts = iter(_texts(offset, count * 12, 30))
    pages = []
    for _ in range(count):
        page, boxes, top = Image.new("L", _PAGE, 245), [], 20
        while top < _PAGE[1] - 70:
            size = int(generator.integers(18, 36))
            line = _render(next(texts), _fonts()[int(generator.integers(len(_fonts())))], size, generator)
            left, margin = int(generator.integers(5, 60)), size // 5
            page.paste(line, (left, top))
            box = (left + margin, top + margin, min(left + line.width - margin, _PAGE[0]), top + line.height - margin)
            boxes.append(box)
            top += line.height + int(generator.integers(10, 40))
        grey = np.asarray(page, dtype=np.float32) / 127.5 - 1
        pages.append((np.broadcast_to(grey, (1, 3, *grey.shape)).copy(), boxes))
    return pages


def _boxes(likelihood: NDArray[np.float32]) -> list[tuple[int, int, int, int]]:
    """Boxes of regions above 0.3 whose mean is above 0.5, grown as Liao et al. 2020 (DB) shrank them."""
    regions, _ = ndimage.label(likelihood > 0.3)
    boxes = []
    for number, place in enumerate(ndimage.find_objects(regions), start=1):
        rows, columns = place
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if min(height, width) < 3 or likelihood[place][regions[place] == number].mean() < 0.5:
            continue
        # 1.6 is the pipeline's own ratio of grown area to perimeter.
        grow = round(height * width * 1.6 / (2 * (height + width)))
        boxes.append((columns.start - grow, rows.start - grow, columns.stop + grow, rows.stop + grow))
    return boxes


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def edit_distance(one: str, other: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, start=1):
        above, row[0] = row[0], i
        for j, right in enumerate(other, start=1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (left != right))
    return row[-1]


def recognition_calibration(samples: int = 64) -> dict[str, NDArray[np.float32]]:
    """Return line images [samples, 3, 48, 320] of texts that the task does not use, cut at 320."""
    return {"x": np.concatenate([strip[..., :_MIN_WIDTH] for _, strip in _strips(_CALIBRATION_OFFSET, samples)])}


def classifier_calibration(samples: int = 64) -> dict[str, NDArray[np.float32]]:
    """Return line images [samples, 3, 48, 192] for the classifier of upside-down lines, every second one turned."""
    images = recognition_calibration(samples)["x"][..., :192]
    images[1::2] = images[1::2, :, ::-1, ::-1]
    return {"x": images}


def detection_calibration(samples: int = 8) -> dict[str, NDArray[Any]]:
    """Return pages [samples, 3, 736, 736] of texts that the task does not use."""
    return {"x": np.concatenate([page for page, _ in _pages(_CALIBRATION_OFFSET, samples)])}

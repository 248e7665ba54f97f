"""Who takes part in `make benchmark` on which model, and their files, made once each and kept with what they cost.

Files and records lie in `contest/MODEL` of the benchmarks' cache. A record names what it was made from (model,
options or tool, versions); where that has changed, the file is made again.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import contenders, environments, models, packages, recovery_data, tasks
from benchmarks.contenders import Attempt
from benchmarks.measure import Measured
from benchmarks.peers import PEERS

Row = dict[str, Any]

MINILM = "minilm-torchscript-eager"
MODELS = (
    MINILM, "ppocr-rec", "effnet-dynamo", "gloss-classifier", "gloss-gpt", "fashion-convnet",
    "albert-torchscript-eager", "ppocr-det", "ppocr-cls", "silero-16k", "silero-if", "magika",
    "arabic-encoder", "arabic-decoder", "int8-tashkeel", "int8-bilstm", "int8-spelling",
)  # fmt: skip
# Those about which figures are promised: several goals each.
PROMISED = MODELS[:6]
_RECOVERY_LIMIT_S = 5400.0
_CUT = ("remove-heads:keep=0.67", "remove-neurons:keep=0.67", "sparse-int8")
_NARROW = ("remove-channels:keep=0.75", "sparse-int8")
_PACKED = ("sparse-int8:sparsity=0.5,allocation=loss,embeddings=4", "pack-weights")
_TAUGHT = (
    "remove-heads:keep=8", "remove-neurons:keep=1024",
    "recover:steps=900,batch=64,check=100,lr=0.0005,mixed=yes",
)  # fmt: skip
# They share the recovery, which the first of them makes and the others take over.
RECOVERED = {
    "onnxprune, recovered, int8": (*_TAUGHT, "sparse-int8", "streamline"),
    "onnxprune, recovered, int8, tables of 4 bits": (*_TAUGHT, "sparse-int8:embeddings=4", "pack-weights"),
}


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to make a model smaller or faster.

    Attributes:
        name: as the tables have it.
        options: of `onnxprune optimize`, without what says which model and data; None for a peer or the original.
        note: what it is, in a few words.
    """

    name: str
    options: tuple[str, ...] | None = None
    note: str = ""

    @property
    def is_own(self) -> bool:
        """Whether onnxprune made it."""
        return self.options is not None


def field(model: str) -> list[Contender]:
    """Return all contenders for a model, the original first."""
    return [
        Contender(name="fp32"),
        *own(model),
        *(Contender(name=name, note=peer.settings) for name, peer in PEERS.items()),
    ]


def own(model: str) -> list[Contender]:
    """Return what onnxprune is asked for."""
    found = [Contender(name="onnxprune", options=(), note="no goal: lossless edits and int8, within its floor of .95")]
    if model not in PROMISED:
        return found
    task = tasks.of(model)
    cut = _CUT if task.kind == "transformer" else _NARROW
    found.append(Contender(name="onnxprune, cut, int8", options=_passes(cut), note=f"{task.kind}: {' → '.join(cut)}"))
    if task.kind == "transformer":
        found.append(Contender(name="onnxprune, packed", options=_passes(_PACKED), note=" → ".join(_PACKED)))
    speed = "3" if model == MINILM else "2"
    found.append(Contender(name=f"onnxprune --speedup {speed}", options=("--speedup", speed), note="a searched plan"))
    if model == MINILM:
        lessons = ("--recover-data", str(recovery_data.training_file()))
        for name, passes in RECOVERED.items():
            found.append(Contender(name=name, options=(*lessons, *_passes(passes)), note=" → ".join(passes)))
    return found


def _passes(specs: Iterable[str]) -> tuple[str, ...]:
    return tuple(part for spec in specs for part in ("--pass", spec))


def made(model: str, contender: Contender, again: bool = False) -> Row:
    """Return the record of one file, which is made if need be.

    Returns:
        {"contender", "key", "file", "error", "cost": {"seconds", "cpu_seconds", "peak_mb"} or null, "of"}; `of` says of
        what the cost is where it is not of the whole.
    """
    known = None if again else held(model, contender)
    if known is not None:
        return known
    noted = _noted(model, contender)
    attempt, of = _attempt(model, contender, noted.with_suffix(".onnx"))
    record = {
        "contender": contender.name, "key": _key(model, contender), "file": str(attempt.file), "error": attempt.error,
        "cost": None if attempt.cost is None else _cost(attempt.cost), "of": of,
    }  # fmt: skip
    noted.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return record


def held(model: str, contender: Contender) -> Row | None:
    """Return the record of a file that was made, or failed, before; None where that is still to come."""
    noted = _noted(model, contender)
    if not noted.exists():
        return None
    found: Row = json.loads(noted.read_text(encoding="utf-8"))
    same = found["key"] == _key(model, contender)
    return found if same and (found["error"] or Path(found["file"]).exists()) else None


def _noted(model: str, contender: Contender) -> Path:
    stem = "".join(letter if letter.isalnum() else "-" for letter in contender.name)
    return packages.cache_folder("contest", model) / f"{stem}.json"


def make_all(names: Iterable[str], workers: int, only: str = "", again: bool = False) -> None:
    """Make all files of the models named, several at a time, the longest jobs first."""
    everyone = [(model, contender) for model in names for contender in field(model) if contender.name != "fp32"]
    exact = [job for job in everyone if job[1].name == only]
    jobs = exact or [job for job in everyone if only in job[1].name]
    # Models and data that are not there yet are made here, once.
    for model in dict.fromkeys(model for model, _ in jobs):
        models.get(model), tasks.calibration_file(model)
    for name in environments.names():
        try:
            environments.python(name)
        except packages.FetchError as error:
            # Each of its contenders has this as its row.
            print(error, flush=True)
    lasting = [job for job in jobs if job[1].name in RECOVERED]
    rows = [lasting, *([job] for job in jobs if job not in lasting)]
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda row: [_told(*job, again=again) for job in row], rows))


def _told(model: str, contender: Contender, *, again: bool) -> None:
    record = made(model, contender, again=again)
    spent = record["cost"]["seconds"] if record["cost"] else 0
    print(f"{model}: {contender.name}: {record['error'] or 'made'}, {spent:.0f} s", flush=True)


def original(model: str) -> Row:
    """Return the record of the untouched file."""
    return {"contender": "fp32", "file": str(models.get(model)), "error": "", "cost": None, "of": ""}


def _attempt(model: str, contender: Contender, target: Path) -> tuple[Attempt, str]:
    path = models.get(model)
    if not contender.is_own:
        return contenders.peer(contender.name, path, target, model), ""
    options: list[str | Path] = ["--target", "cpu:1", *given(model), *(contender.options or ())]
    if contender.name not in RECOVERED:
        return contenders.onnxprune(path, target, *options), ""
    cache = packages.cache_folder("contest", model, "taken-over")
    attempt = contenders.onnxprune(path, target, *options, limit_s=_RECOVERY_LIMIT_S, cache=cache)
    first = contender.name == next(iter(RECOVERED))
    return attempt, "" if first else f"after what {next(iter(RECOVERED))!r} took for the same cut and recovery"


def given(model: str) -> list[str | Path]:
    """Return the data and the shapes to time, as options."""
    data = tasks.calibration_file(model)
    options: list[str | Path] = [] if data is None else ["--data", data]
    for entry, array in tasks.feed(model).items():
        # A scalar has no shape to state.
        if array.ndim:
            options += ["--shape", f"{entry}={'x'.join(map(str, array.shape))}"]
    return options


def _cost(cost: Measured) -> Row:
    return {key: value for key, value in asdict(cost).items() if key in {"seconds", "cpu_seconds", "peak_mb"}}


def _key(model: str, contender: Contender) -> str:
    if contender.is_own:
        how: Any = [contender.options and [part for part in contender.options if not part.endswith(".npz")], _code()]
    elif contender.name in PEERS:
        peer = PEERS[contender.name]
        how = [peer.run.__name__, environments.versions(peer.environment)]
    else:
        how = []
    return hashlib.sha256(json.dumps([_digest(models.get(model)), how]).encode()).hexdigest()


@cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _code() -> str:
    # A later commit's files need not be made again to continue a killed run; `--again` makes them.
    return f"{version('onnxprune')}, onnxruntime {version('onnxruntime')}"


def workers() -> int:
    """Return how many files are made at a time: one a core, two at most, since published times are of two cores."""
    return min(len(os.sched_getaffinity(0)), 2)

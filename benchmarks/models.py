"""The real models of the benchmarks, by name, as ONNX files on disk.

    python -m benchmarks.models            list the names
    python -m benchmarks.models NAME ...   make the files and print their paths

Exports lie in `models/` of the cache (see `packages.cache_folder`) and are made again when the weights or an
exporter's version change; models that come as ONNX are read out of their packages unchanged.
"""

import hashlib
import importlib.metadata
import sys
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import packages

_RAPIDOCR = "rapidocr_onnxruntime/models/"
_SILERO = "silero_vad/data/"
_ARABIC = "arabic_name_romanizer/resources/"

# Changes when the way of exporting changes, so that files of an older way are made again.
_RECIPE = "1"


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """A model that its package holds as ONNX.

    Attributes:
        package: name in `assets.txt`.
        member: path inside the wheel.
    """

    package: str
    member: str

    def get(self, name: str) -> Path:
        """Return the file; `name` is only for the reader, the file keeps its own."""
        del name
        return packages.file(self.package, self.member)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A model that is exported from torch weights.

    Attributes:
        source: function in `exports.py`.
        options: its keyword arguments.
    """

    source: str
    options: dict[str, str] = field(default_factory=dict)

    def get(self, name: str) -> Path:
        """Return the export, made on first use."""
        target = packages.cache_folder("models") / f"{name}.onnx"
        recipe = target.with_suffix(".recipe")
        wanted = self._key()
        if not (target.exists() and recipe.exists() and recipe.read_text(encoding="utf-8") == wanted):
            # torch takes seconds to load; most calls find the file made.
            from benchmarks import exports

            getattr(exports, self.source)(target, **self.options)
            recipe.write_text(wanted, encoding="utf-8")
        return target

    def _key(self) -> str:
        versions = [importlib.metadata.version(name) for name in ("torch", "transformers", "onnx", "onnxscript")]
        text = repr((_RECIPE, self.source, sorted(self.options.items()), versions))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Committed:
    """A model of `fixtures/`."""

    def get(self, name: str) -> Path:
        """Return the file."""
        return packages.ROOT / "fixtures" / name / "model.onnx"


FIXTURES = {name: Committed() for name in ("gloss-classifier", "gloss-gpt", "fashion-convnet")}

MODELS: dict[str, Shipped | Exported] = {
    "minilm-dynamo-sdpa": Exported(source="minilm", options={"exporter": "dynamo", "attention": "sdpa"}),
    "minilm-dynamo-eager": Exported(source="minilm", options={"exporter": "dynamo", "attention": "eager"}),
    "minilm-torchscript-sdpa": Exported(source="minilm", options={"exporter": "torchscript", "attention": "sdpa"}),
    "minilm-torchscript-eager": Exported(source="minilm", options={"exporter": "torchscript", "attention": "eager"}),
    "albert-dynamo-sdpa": Exported(source="albert", options={"exporter": "dynamo", "attention": "sdpa"}),
    "albert-torchscript-eager": Exported(source="albert", options={"exporter": "torchscript", "attention": "eager"}),
    "effnet-dynamo": Exported(source="effnet", options={"exporter": "dynamo"}),
    "effnet-torchscript": Exported(source="effnet", options={"exporter": "torchscript"}),
    "ppocr-det": Shipped(package="rapidocr-onnxruntime", member=f"{_RAPIDOCR}ch_PP-OCRv4_det_infer.onnx"),
    "ppocr-rec": Shipped(package="rapidocr-onnxruntime", member=f"{_RAPIDOCR}ch_PP-OCRv4_rec_infer.onnx"),
    "ppocr-cls": Shipped(package="rapidocr-onnxruntime", member=f"{_RAPIDOCR}ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    "silero-if": Shipped(package="silero-vad", member=f"{_SILERO}silero_vad.onnx"),
    "silero-16k": Shipped(package="silero-vad", member=f"{_SILERO}silero_vad_16k_op15.onnx"),
    "magika": Shipped(package="magika", member="magika/models/standard_v3_3/model.onnx"),
    "arabic-encoder": Shipped(package="arabic-name-romanizer", member=f"{_ARABIC}encoder.onnx"),
    "arabic-decoder": Shipped(package="arabic-name-romanizer", member=f"{_ARABIC}decoder.onnx"),
    "int8-tashkeel": Shipped(package="text2tashkeel", member="text2tashkeel/models/rawi.int8.onnx"),
    "int8-bilstm": Shipped(package="text2tashkeel", member="text2tashkeel/models/bilstm.int8.onnx"),
    "int8-spelling": Shipped(package="pyfrspell", member="pyfrspell/models/community/lemma_type_model.int8.onnx"),
}


def get(name: str) -> Path:
    """Return the path of the ONNX file of `name`, fetched or exported on first use."""
    known: dict[str, Shipped | Exported | Committed] = {**MODELS, **FIXTURES}
    if name not in known:
        raise packages.FetchError(f"No model named {name!r}. Known: {', '.join(sorted(known))}.")
    return known[name].get(name)


def main(names: list[str]) -> None:
    """Print the names, or make the named files."""
    print("\n".join(str(get(name)) for name in names) or "\n".join(MODELS))


if __name__ == "__main__":
    main(sys.argv[1:])

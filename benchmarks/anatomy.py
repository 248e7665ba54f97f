"""Where the bytes of an ONNX file are.

python -m benchmarks.anatomy FILE.onnx [...]
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx


def anatomy(path: Path) -> dict[str, Any]:
    """Return the bytes of the file at `path` by what they hold; `structure` is what remains.

    `initializers` are their raw payloads, `constants` whole tensors in node attributes.
    """
    model = onnx.load(path, load_external_data=False)
    parts: Counter[str] = Counter()
    dtypes: Counter[str] = Counter()
    nodes = 0
    for graph in _graphs(model.graph):
        for tensor in graph.initializer:
            parts["initializers"] += len(tensor.raw_data)
            parts["initializer_headers_and_names"] += tensor.ByteSize() - len(tensor.raw_data)
            dtypes[onnx.TensorProto.DataType.Name(tensor.data_type)] += len(tensor.raw_data)
        parts["value_info"] += sum(info.ByteSize() for info in graph.value_info)
        parts["graph_metadata"] += _properties(graph)
        for node in graph.node:
            nodes += 1
            parts["node_metadata"] += _properties(node) + len(node.doc_string)
            parts["node_names"] += len(node.name)
            parts["node_edges"] += sum(map(len, (*node.input, *node.output)))
            parts["constants"] += sum(
                attribute.t.ByteSize() for attribute in node.attribute if attribute.type == onnx.AttributeProto.TENSOR
            )
    parts["model_metadata"] = _properties(model) + len(model.doc_string)
    parts["functions"] = sum(function.ByteSize() for function in model.functions)
    total = path.stat().st_size
    return {
        "file": path.name,
        "total": total,
        **parts,
        "structure": total - parts.total(),
        "initializers_by_type": dict(dtypes),
        "nodes": nodes,
    }


def _properties(message: Any) -> int:
    return sum(entry.ByteSize() for entry in message.metadata_props)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def main(files: list[str]) -> None:
    """Print the anatomy of the files named as JSON."""
    print(json.dumps([anatomy(Path(file)) for file in files], indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])

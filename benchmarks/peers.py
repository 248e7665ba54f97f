"""What a user would run instead of onnxprune; each takes a file and writes a file.

python -m benchmarks.peers NAME INPUT.onnx OUTPUT.onnx
"""

import logging
import sys
from pathlib import Path


def ort_dynamic(source: Path, target: Path) -> None:
    """Quantize weights per channel with onnxruntime's `quantize_dynamic`; activations are quantized at run time."""
    # Imported here: another peer must not fail for want of what this one needs.
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # It recommends a pre-processing step at every call.
    logging.disable(logging.WARNING)
    quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8)


PEERS = {"ort-dynamic": ort_dynamic}


def main(arguments: list[str]) -> None:
    """Run the peer named."""
    name, source, target = arguments
    PEERS[name](Path(source), Path(target))


if __name__ == "__main__":
    main(sys.argv[1:])

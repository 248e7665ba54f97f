"""Silero's voice detector on spoken words between silences, in noise."""

import wave
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from benchmarks import packages
from benchmarks.scores import Score, auc
from benchmarks.sessions import open_session

_RATE = 16_000
_FRAME = 512
_CONTEXT = 64
_SNR_DB = 15
_SILENCE_S = 0.8
# A frame holds speech when its clean energy is within this of the loudest frame's.
_SPEECH_DB = 35
_REPEATS = 3


@cache
def _audio() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return frames [frames, 64 + 512] of noisy speech with their context, and which hold speech."""
    generator = np.random.default_rng(0)
    words = [_spoken(path) for path in sorted(_sounds().glob("*.wav")) if path.stem != "Noise"]
    silence = np.zeros(int(_SILENCE_S * _RATE))
    parts = [silence]
    for index in np.concatenate([generator.permutation(len(words)) for _ in range(_REPEATS)]):
        parts += [words[index], silence]
    clean = np.concatenate(parts)
    clean = clean[: len(clean) // _FRAME * _FRAME]
    energy = (clean.reshape(-1, _FRAME) ** 2).mean(axis=1)
    speech = energy > energy.max() * 10 ** (-_SPEECH_DB / 10)
    level = np.sqrt(energy[speech].mean()) * 10 ** (-_SNR_DB / 20)
    noisy = (clean + generator.normal(0, level, len(clean))).astype(np.float32)
    padded = np.concatenate([np.zeros(_CONTEXT, np.float32), noisy])
    starts = range(0, len(noisy), _FRAME)
    return np.stack([padded[start : start + _CONTEXT + _FRAME] for start in starts]), speech


def _sounds() -> Path:
    return packages.debian("alsa-utils") / "usr/share/sounds/alsa"


def _spoken(path: Path) -> NDArray[np.float64]:
    with wave.open(str(path)) as opened:
        samples = np.frombuffer(opened.readframes(opened.getnframes()), dtype="<i2").astype(np.float64) / 2**15
        mono = samples.reshape(-1, opened.getnchannels()).mean(axis=1)
        return np.asarray(resample_poly(mono, _RATE, opened.getframerate()))


def _stream(path: Path) -> tuple[list[dict[str, NDArray[Any]]], list[float]]:
    """Feed the frames in order, carrying the state; return the feeds and the likelihoods of speech."""
    session = open_session(path)
    state = np.zeros((2, 1, 128), np.float32)
    feeds, likelihoods = [], []
    for frame in _audio()[0]:
        feeds.append({"input": frame[None], "state": state, "sr": np.array(_RATE, dtype=np.int64)})
        output, state = session.run(None, feeds[-1])
        likelihoods.append(float(output[0, 0]))
    return feeds, likelihoods


def detection(path: Path) -> tuple[Score]:
    """Area under the curve over frames of 32 ms, at a signal-to-noise ratio of 15 dB, of the model at `path`."""
    items = np.stack([_stream(path)[1], _audio()[1]], axis=1)
    return (Score(task="speech frames AUC", items=items, statistic=auc),)


def calibration(path: Path, samples: int = 128) -> dict[str, NDArray[Any]]:
    """Return whole feeds, stacked on a new axis 0, from the stream as the model at `path` goes through it.

    The task's own audio, since there is no other: good for ranges, no evidence of accuracy.
    """
    feeds, _ = _stream(path)
    chosen = np.linspace(0, len(feeds) - 1, samples).astype(int)
    return {name: np.stack([feeds[index][name] for index in chosen]) for name in feeds[0]}

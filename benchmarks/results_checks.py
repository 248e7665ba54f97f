"""What must hold of `results.json`, and where a peer wins. Pure: JSON values in, JSON values out."""

from typing import Any

Row = dict[str, Any]

_MINILM = "minilm"
_PROMISED = ("ppocr-rec", "effnet", "gloss-classifier", "gloss-gpt", "fashion-convnet")
_FLOOR, _FASTER, _SMALLER = 0.98, 1.5, 0.6
# The least share of fp32's variance by which a peer must keep more to count as more faithful.
_MORE = 0.0005


def runs(row: Row) -> bool:
    """Whether a row has a speed."""
    return not row["error"] and "1" in row.get("batches", {}) and isinstance(row["batches"]["1"], dict)


def speed(row: Row) -> float:
    """Times as fast as the original at batch 1."""
    return float(row["batches"]["1"]["speedup"])


def kept(row: Row) -> float:
    """The least share of the original's task scores that a row keeps; of errors, of the room that they leave."""
    return min((share(score) for score in row["scores"]), default=float("nan"))


def share(score: Row) -> float:
    """A score as a share of the original's, so that more is better; of perplexities and losses the inverse."""
    value, reference = score["value"], score["reference"]
    if "error" in score["task"]:
        # A share of characters: what is right is what counts.
        return float((1 - value) / (1 - reference))
    if any(word in score["task"] for word in ("perplexity", "nats")):
        return float(reference / max(value, 1e-9))
    return float(value / reference)


def rivals(model: Row) -> list[Row]:
    """The rows of other tools that run."""
    return [row for row in model["rows"] if not row["own"] and row["contender"] != "fp32" and runs(row)]


def ours(model: Row) -> list[Row]:
    """Our rows that run."""
    return [row for row in model["rows"] if row["own"] and runs(row)]


def checks(result: Row) -> list[Row]:
    """What must hold: {"model", "what", "came", "holds"}."""
    found = []
    for model in result["models"]:
        if model["model"].startswith(_MINILM):
            found += _floor(model)
        elif model["model"].startswith(_PROMISED):
            found.append(_nobody_better(model))
    return found


def _floor(model: Row) -> list[Row]:
    own, other = ([row for row in rows if kept(row) >= _FLOOR] for rows in (ours(model), rivals(model)))
    if not own or not other:
        return [_check(model, f"a row of ours and a peer keep {_FLOOR:.0%} of each score", "no", False)]
    fast, rival = max(own, key=speed), max(other, key=speed)
    ratio = rival["time_of"][fast["contender"]]
    small, least = min(own, key=_bytes), min(other, key=_bytes)
    share = small["bytes"] / least["bytes"]
    return [
        _check(
            model,
            f"at ≥ {_FLOOR:.0%} of each score, ≥ {_FASTER} x as fast as the best peer",
            f"{ratio['median']:.2f} ({ratio['low']:.2f} … {ratio['high']:.2f}): {fast['contender']} "
            f"beside {rival['contender']}",
            ratio["median"] >= _FASTER,
        ),
        _check(
            model,
            f"at ≥ {_FLOOR:.0%} of each score, a file ≤ {_SMALLER} x the best peer's",
            f"{share:.3f}: {small['contender']} beside {least['contender']}",
            share <= _SMALLER,
        ),
    ]


def _nobody_better(model: Row) -> Row:
    winners = [row["contender"] for row in rivals(model) if all(_beats(row, own) for own in ours(model))]
    what = "no peer is both faster and more faithful than everything of ours"
    return _check(model, what, ", ".join(winners) or "none is", not winners)


def _beats(rival: Row, own: Row) -> bool:
    """Faster beyond chance, and keeps more of the outputs."""
    faster = own["time_of"].get(rival["contender"], {"low": 0.0})["low"] > 1
    return faster and (rival["explained"] or 0) > (own["explained"] or 0) + _MORE


def _check(model: Row, what: str, came: str, holds: bool) -> Row:
    return {"model": model["model"], "what": what, "came": came, "holds": bool(holds)}


def _bytes(row: Row) -> int:
    return int(row["bytes"])


def wins(model: Row) -> list[str]:
    """Say of each of our rows which peers beat it, and who is ahead in each column."""
    said = []
    for own in ours(model):
        better = [row["contender"] for row in rivals(model) if _beats(row, own)]
        if better:
            said.append(f"{own['contender']}: {', '.join(better)} faster and more faithful")
    mine, theirs = ours(model), rivals(model)
    if not mine or not theirs:
        return said
    columns = (
        ("fastest at batch 1", lambda row: -speed(row)),
        ("fastest at batch 8", _slow_at_8),
        ("smallest file", _bytes),
        ("smallest under gzip", lambda row: row["gzip_bytes"]),
        ("quickest to load", lambda row: row["load_ms"]),
        ("least memory", lambda row: row["memory"]["resident_bytes"] if row["memory"] else float("inf")),
    )
    for what, key in columns:
        best, rival = min(mine, key=key), min(theirs, key=key)
        if key(rival) < key(best):
            said.append(f"{what}: {rival['contender']} ({best['contender']} is ours)")
    return said


def _slow_at_8(row: Row) -> float:
    batch = row["batches"].get("8")
    return -float(batch["speedup"]) if isinstance(batch, dict) else float("inf")

"""Fused attention. Inside, queries are [batch, heads, queries, width], keys and values [batch, groups, keys, width]."""

from __future__ import annotations

import math
from typing import Any

import torch

from onnxprune.learn.call import Call, Operator, Tensor, entry
from onnxprune.learn.reductions import softmax


def _apart(x: Tensor, heads: int) -> Tensor:
    """[batch, length, heads·width] -> [batch, heads, length, width]."""
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2)


def _together(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _causal(queries: int, keys: int, past: int, x: Tensor) -> Tensor:
    """[queries, keys], 0 where a key is seen and -inf where it comes later."""
    late = torch.arange(keys, device=x.device) > torch.arange(queries, device=x.device)[:, None] + past
    return torch.zeros(queries, keys, dtype=x.dtype, device=x.device).masked_fill(late, -math.inf)


def _scores(q: Tensor, k: Tensor, scale: float) -> Tensor:
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1) if k.shape[1] != q.shape[1] else k
    return (q * scale) @ k.transpose(-1, -2)


def _mixed(p: Tensor, v: Tensor) -> Tensor:
    return p @ (v.repeat_interleave(p.shape[1] // v.shape[1], dim=1) if v.shape[1] != p.shape[1] else v)


def _attention(call: Call, q: Tensor, k: Tensor, v: Tensor, *rest: Tensor | None) -> Any:
    """Attention of opset 23 on: mask, past key, past value, length of the unpadded keys."""
    mask, past_key, past_value, lengths = (*rest, *[None] * 4)[:4]
    packed = q.dim() == 3
    if packed:
        q = _apart(q, int(call.get("q_num_heads")))
        k, v = (_apart(x, int(call.get("kv_num_heads"))) for x in (k, v))
    past = 0
    if past_key is not None and past_value is not None:
        past = past_key.shape[2]
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    scores = _scores(q, k, float(call.get("scale", q.shape[-1] ** -0.5)))
    raw = scores
    bias = torch.zeros((), dtype=q.dtype, device=q.device)
    if call.get("is_causal", 0):
        bias = bias + _causal(q.shape[2], k.shape[2], past, q)
    if mask is not None:
        added = (
            torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else mask
        )
        if added.shape[-1] < k.shape[2]:
            added = torch.nn.functional.pad(added, (0, k.shape[2] - added.shape[-1]), value=-math.inf)
        bias = bias + added
    if lengths is not None:
        hidden = torch.arange(k.shape[2], device=q.device) >= lengths.to(q.device)[:, None]
        bias = bias + torch.zeros_like(hidden, dtype=q.dtype).masked_fill(hidden, -math.inf)[:, None, None, :]
    cap, mode = float(call.get("softcap", 0.0)), int(call.get("qk_matmul_output_mode", 0))
    # Opset 23 caps the scores before masking them.
    capped = torch.tanh(scores / cap) * cap if cap else scores
    masked = capped + bias
    p = softmax(masked, -1)
    # Rows without any key give zeros.
    p = torch.where(torch.isnan(p), torch.zeros_like(p), p) if p.isnan().any() else p
    out = _mixed(p, v)
    seen = {0: raw, 1: masked, 2: capped, 3: p}[mode]
    return (_together(out) if packed else out, k, v, seen)[: max(1, len(call.wanted))]


def _key_mask(call: Call, mask: Tensor, batch: int, queries: int, keys: int, like: Tensor) -> Tensor:
    """What the masks of com.microsoft add to the scores: lengths, [batch, keys], or one for each query."""
    fill = float(call.get("mask_filter_value", -10000.0))
    if mask.dim() == 1:
        if mask.numel() not in {batch, 2 * batch}:
            raise call.refuse(f"a mask {list(mask.shape)} for {batch} rows")
        places = torch.arange(keys, device=like.device)
        ends = mask[:batch].to(like.device)
        shown = places < ends[:, None]
        if mask.numel() == 2 * batch:
            shown = shown & (places >= mask[batch:].to(like.device)[:, None])
    else:
        shown = mask.to(like.device) != 0
    shown = shown[:, None, None, :] if shown.dim() == 2 else shown[:, None] if shown.dim() == 3 else shown
    if shown.shape[-2] not in {1, queries}:
        shown = shown[..., keys - queries : keys, :keys]
    return torch.zeros_like(shown, dtype=like.dtype).masked_fill(~shown, fill)


def _attend(call: Call, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, past: int) -> Tensor:
    scale = float(call.get("scale", 0.0)) or q.shape[-1] ** -0.5
    scores = _scores(q, k, scale)
    batch, _, queries, keys = scores.shape
    if bias is not None:
        scores = scores + bias
    if mask is not None and mask.numel():
        scores = scores + _key_mask(call, mask, batch, queries, keys, scores)
    if call.get("unidirectional", 0):
        scores = scores + _causal(queries, keys, past, scores)
    return _together(_mixed(softmax(scores, -1), v))


def _merged(call: Call, x: Tensor, weight: Tensor, *rest: Tensor | None) -> Any:
    """Attention of com.microsoft: one weight [hidden, q + k + v]."""
    shift, mask, past, bias = (*rest, *[None] * 4)[:4]
    if call.get("do_rotary", 0) or call.get("past_present_share_buffer", 0):
        raise call.refuse("rotary positions, or a shared cache")
    heads = int(call.get("num_heads"))
    joined = x @ weight if shift is None else x @ weight + shift
    sizes = [int(n) for n in call.get("qkv_hidden_sizes", ()) or [joined.shape[2] // 3] * 3]
    q, k, v = (_apart(part, heads) for part in joined.split(sizes, dim=2))
    if past is not None:
        k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
    out = _attend(call, q, k, v, mask, bias, 0 if past is None else past.shape[3])
    return (out, torch.stack([k, v])) if call.wants(1) else out


def _multi_head(call: Call, query: Tensor, *rest: Tensor | None) -> Any:
    """MultiHeadAttention of com.microsoft: apart, or packed [.., heads, 3, width] and [.., heads, 2, width]."""
    key, value, shift, mask, bias, past_key, past_value = (*rest, *[None] * 7)[:7]
    heads = int(call.get("num_heads"))
    if query.dim() == 5:
        q, k, v = (part.transpose(1, 2) for part in query.unbind(3))
    else:
        q = _apart(query, heads)
        if key is not None and key.dim() == 5:
            k, v = (part.transpose(1, 2) for part in key.unbind(3))
        elif key is not None and value is not None:
            # [batch, heads, keys, width] where it comes from another attention.
            k, v = (x if x.dim() == 4 else _apart(x, heads) for x in (key, value))
        else:
            raise call.refuse("it lacks keys or values")
    if shift is not None:
        widths = [heads * x.shape[-1] for x in (q, k, v)]
        parts = shift.split(widths)
        q, k, v = (
            x + part.reshape(1, heads, 1, -1) for x, part in zip((q, k, v), parts, strict=True)
        )  # fmt: skip
    past = 0
    if past_key is not None and past_value is not None:
        past = past_key.shape[2]
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    out = _attend(call, q, k, v, mask, bias, past)
    return (out, k, v)[: max(1, len(call.wanted))] if len(call.wanted) > 1 else out


def _grouped(call: Call, query: Tensor, *rest: Tensor | None) -> Any:
    """GroupQueryAttention of com.microsoft: causal; the last key of each row tells its length."""
    key, value, past_key, past_value, last, _, cos, sin, positions, bias, sink = (*rest, *[None] * 11)[:11]
    heads, groups = int(call.get("num_heads")), int(call.get("kv_num_heads"))
    if last is None or sink is not None or call.get("smooth_softmax", 0):
        raise call.refuse("no lengths of the keys, or a smooth softmax")
    if key is None or value is None:
        width = query.shape[2] // (heads + 2 * groups)
        query, key, value = query.split([heads * width, groups * width, groups * width], dim=2)
    q, k, v = _apart(query, heads), _apart(key, groups), _apart(value, groups)
    queries, ends = q.shape[2], last.reshape(-1).to(q.device).long() + 1
    cached = past_key is not None and past_key.shape[2] > 0
    if cached and bool((ends != ends[0]).any()):
        raise call.refuse("a cache whose rows are of several lengths")
    past = int(ends[0]) - queries if cached else 0
    if call.get("do_rotary", 0) and cos is not None and sin is not None:
        where = torch.arange(past, past + queries, device=q.device)[None] if positions is None else positions.long()
        interleaved = bool(call.get("rotary_interleaved", 0))
        q, k = (_rotated(x, cos[where], sin[where], interleaved=interleaved) for x in (q, k))
    if cached and past_key is not None and past_value is not None:
        k, v = torch.cat([past_key[:, :, :past], k], 2), torch.cat([past_value[:, :, :past], v], 2)
    scale = float(call.get("scale", 0.0)) or q.shape[-1] ** -0.5
    scores = _scores(q, k, scale)
    cap = float(call.get("softcap", 0.0))
    scores = torch.tanh(scores / cap) * cap if cap else scores
    scores = scores + _causal(queries, k.shape[2], past, scores)
    window = int(call.get("local_window_size", -1))
    if window > 0:
        distance = torch.arange(queries, device=q.device)[:, None] + past - torch.arange(k.shape[2], device=q.device)
        scores = scores.masked_fill(distance >= window, -math.inf)
    scores = scores if bias is None else scores + bias
    out = _together(_mixed(softmax(scores, -1), v))
    return (out, k, v)[: max(1, len(call.wanted))] if len(call.wanted) > 1 else out


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Tensor:
    """The first 2·pairs entries of x [batch, heads, length, width] turned by angles [batch, length, pairs]."""
    pairs = cos.shape[-1]
    turned, still = x[..., : 2 * pairs], x[..., 2 * pairs :]
    cos, sin = cos[:, None], sin[:, None]
    first, second = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.split(pairs, dim=-1)
    real, imaginary = first * cos - second * sin, first * sin + second * cos
    result = torch.stack([real, imaginary], -1).flatten(-2) if interleaved else torch.cat([real, imaginary], -1)
    return torch.cat([result, still], -1) if still.shape[-1] else result


def _rotate(call: Call, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None, rotary: int) -> Tensor:
    packed = x.dim() == 3
    if packed:
        count = int(call.get("num_heads", 0)) or x.shape[2] // (rotary or cos.shape[-1] * 2)
        x = _apart(x, count)
    if positions is None:
        # [batch, length, pairs]
        angles = cos, sin
    else:
        where = positions.long()
        if where.numel() == 1:
            where = where.reshape(1, 1) + torch.arange(x.shape[2], device=where.device)
        angles = cos[where], sin[where]
    turned = _rotated(x, *angles, interleaved=bool(call.get("interleaved", 0)))
    return _together(turned) if packed else turned


def _rotary(call: Call, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None) -> Tensor:
    return _rotate(call, x, cos, sin, positions, int(call.get("rotary_embedding_dim", 0)))


def _microsoft_rotary(call: Call, x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return _rotate(call, x, cos, sin, positions, int(call.get("rotary_embedding_dim", 0))) * float(
        call.get("scale", 1.0)
    )


TABLE: dict[str, Operator] = {"Attention": entry(_attention, 6), "RotaryEmbedding": entry(_rotary)}

MICROSOFT: dict[str, Operator] = {
    "Attention": entry(_merged),
    "GroupQueryAttention": entry(_grouped, 5, 6),
    "MultiHeadAttention": entry(_multi_head),
    "RotaryEmbedding": entry(_microsoft_rotary),
}

# ruff: noqa: E501 - an architecture is one line
"""One line an architecture: a configuration class of transformers, a model class and small sizes.

Sizes are chosen so that 3 of 8 and 5 of 8 heads can go and that no two lengths coincide by accident.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Inputs = Literal["text", "image", "mel", "wave", "text to text", "text and image"]

# 8 heads of width 8, 112 neurons, 2 layers.
TEXT = {"vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8, "intermediate_size": 112}
DECODER = TEXT | {"max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
IMAGE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "intermediate_size": 112,
    "image_size": 24,
    "patch_size": 8,
}
T5 = {
    "vocab_size": 97,
    "d_model": 64,
    "d_kv": 8,
    "d_ff": 112,
    "num_layers": 2,
    "num_heads": 8,
    "decoder_start_token_id": 0,
}


@dataclass(frozen=True)
class Architecture:
    """A tiny random-weight model.

    Attributes:
        config: name of the configuration class.
        model: name of the model class.
        sizes: arguments of the configuration.
        inputs: what it reads.
        head_units: units of the dimensions that hold heads: 8, or fewer for grouped queries.
        cuts_heads: whether heads can be cut at all.
        cuts_neurons: whether feed-forward neurons can be cut.
    """

    config: str
    model: str
    sizes: dict[str, Any]
    inputs: Inputs = "text"
    head_units: tuple[int, ...] = (8,)
    cuts_heads: bool = True
    cuts_neurons: bool = True
    side: int = 24
    extra: dict[str, Any] = field(default_factory=dict)


# Exported in six ways each.
MATRIX: dict[str, Architecture] = {
    "bert": Architecture("BertConfig", "BertModel", TEXT),
    "vit": Architecture("ViTConfig", "ViTModel", IMAGE, "image"),
    "gpt2": Architecture("GPT2Config", "GPT2LMHeadModel", {"vocab_size": 97, "n_embd": 64, "n_layer": 2, "n_head": 8, "n_inner": 112, "n_positions": 64}),
    "llama": Architecture("LlamaConfig", "LlamaForCausalLM", DECODER | {"num_key_value_heads": 8}),
    "llama-gqa": Architecture("LlamaConfig", "LlamaForCausalLM", DECODER | {"num_attention_heads": 16, "num_key_value_heads": 8}),
    "t5-encoder": Architecture("T5Config", "T5EncoderModel", T5),
    "t5": Architecture("T5Config", "T5ForConditionalGeneration", T5, "text to text"),
    "distilbert": Architecture("DistilBertConfig", "DistilBertModel", {"vocab_size": 97, "dim": 64, "n_layers": 2, "n_heads": 8, "hidden_dim": 112}),
    "roberta": Architecture("RobertaConfig", "RobertaModel", TEXT),
    "albert": Architecture("AlbertConfig", "AlbertModel", TEXT | {"embedding_size": 16}),
    "deberta-v2": Architecture("DebertaV2Config", "DebertaV2Model", TEXT | {"relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"]}),
    "gpt-neox": Architecture("GPTNeoXConfig", "GPTNeoXForCausalLM", DECODER | {"rotary_pct": 0.5}),
    "bloom": Architecture("BloomConfig", "BloomForCausalLM", {"vocab_size": 97, "hidden_size": 64, "n_layer": 2, "n_head": 8}),
    "falcon": Architecture("FalconConfig", "FalconForCausalLM", {"vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8, "alibi": False}),
    "opt": Architecture("OPTConfig", "OPTForCausalLM", {"vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8, "ffn_dim": 112, "word_embed_proj_dim": 64, "max_position_embeddings": 64}),
    "mistral": Architecture("MistralConfig", "MistralForCausalLM", DECODER | {"num_attention_heads": 16, "num_key_value_heads": 8, "sliding_window": None}),
    "qwen2": Architecture("Qwen2Config", "Qwen2ForCausalLM", DECODER | {"num_key_value_heads": 8}),
    "qwen3": Architecture("Qwen3Config", "Qwen3ForCausalLM", DECODER | {"num_key_value_heads": 8, "head_dim": 16}),
    "phi3": Architecture("Phi3Config", "Phi3ForCausalLM", DECODER | {"num_key_value_heads": 8}),
    "modernbert": Architecture("ModernBertConfig", "ModernBertModel", DECODER | {"cls_token_id": 1, "sep_token_id": 2}),
    "mobilebert": Architecture("MobileBertConfig", "MobileBertModel", TEXT | {"embedding_size": 16, "intra_bottleneck_size": 64, "true_hidden_size": 64}),
    "bart": Architecture("BartConfig", "BartModel", {"vocab_size": 97, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 8, "decoder_attention_heads": 8, "encoder_ffn_dim": 112, "decoder_ffn_dim": 112, "max_position_embeddings": 64}, "text to text"),
    "whisper-encoder": Architecture("WhisperConfig", "WhisperModel.encoder", {"d_model": 64, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 8, "decoder_attention_heads": 8, "encoder_ffn_dim": 112, "max_source_positions": 20, "num_mel_bins": 12}, "mel"),
    "clip-vision": Architecture("CLIPVisionConfig", "CLIPVisionModel", IMAGE, "image"),
    "swin": Architecture("SwinConfig", "SwinModel", {"image_size": 32, "patch_size": 4, "embed_dim": 32, "depths": [2, 2], "num_heads": [8, 8], "window_size": 4}, "image", side=32),
    "convnext": Architecture("ConvNextConfig", "ConvNextModel", {"hidden_sizes": [16, 24], "depths": [1, 1], "num_stages": 2}, "image", cuts_heads=False, side=32),
    "segformer": Architecture("SegformerConfig", "SegformerModel", {"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [32, 64], "num_attention_heads": [8, 8], "patch_sizes": [7, 3], "strides": [4, 2], "mlp_ratios": [2, 2]}, "image", side=32),
    "wav2vec2": Architecture("Wav2Vec2Config", "Wav2Vec2Model", TEXT | {"conv_dim": [24, 20], "conv_kernel": [10, 3], "conv_stride": [5, 2], "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}, "wave"),
}  # fmt: skip

# Added after the code had been written, exported in one way each. Heads of OLMo 2 stay: its norms of queries and keys run
# over all heads at once. Neurons of SqueezeBERT stay: its feed-forwards are grouped convolutions.
FURTHER: dict[str, Architecture] = {
    "electra": Architecture("ElectraConfig", "ElectraModel", TEXT | {"embedding_size": 32}),
    "mpnet": Architecture("MPNetConfig", "MPNetModel", TEXT),
    "squeezebert": Architecture("SqueezeBertConfig", "SqueezeBertModel", TEXT | {"embedding_size": 64}, cuts_neurons=False),
    "xlm": Architecture("XLMConfig", "XLMModel", {"vocab_size": 97, "emb_dim": 64, "n_layers": 2, "n_heads": 8}),
    "funnel": Architecture("FunnelConfig", "FunnelBaseModel", {"vocab_size": 97, "d_model": 64, "block_sizes": [1, 1], "n_head": 8, "d_head": 8, "d_inner": 112}),
    "gpt-neo": Architecture("GPTNeoConfig", "GPTNeoForCausalLM", {"vocab_size": 97, "hidden_size": 64, "num_layers": 2, "num_heads": 8, "intermediate_size": 112, "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 64, "window_size": 16}),
    "gptj": Architecture("GPTJConfig", "GPTJForCausalLM", {"vocab_size": 97, "n_embd": 64, "n_layer": 2, "n_head": 8, "n_inner": 112, "n_positions": 64, "rotary_dim": 4}),
    "codegen": Architecture("CodeGenConfig", "CodeGenForCausalLM", {"vocab_size": 97, "n_embd": 64, "n_layer": 2, "n_head": 8, "n_inner": 112, "n_positions": 64, "n_ctx": 64, "rotary_dim": 4}),
    "phi": Architecture("PhiConfig", "PhiForCausalLM", DECODER),
    "gemma": Architecture("GemmaConfig", "GemmaForCausalLM", DECODER | {"num_key_value_heads": 8, "head_dim": 8}),
    "gemma2": Architecture("Gemma2Config", "Gemma2ForCausalLM", DECODER | {"num_key_value_heads": 8, "head_dim": 8}),
    "stablelm": Architecture("StableLmConfig", "StableLmForCausalLM", DECODER | {"num_key_value_heads": 8}),
    "starcoder2": Architecture("Starcoder2Config", "Starcoder2ForCausalLM", DECODER | {"num_key_value_heads": 8}),
    "olmo2": Architecture("Olmo2Config", "Olmo2ForCausalLM", DECODER | {"num_key_value_heads": 8}, cuts_heads=False),
    "smollm3": Architecture("SmolLM3Config", "SmolLM3ForCausalLM", DECODER | {"num_key_value_heads": 8}),
    "granite": Architecture("GraniteConfig", "GraniteForCausalLM", DECODER | {"num_key_value_heads": 8}),
    "dinov2": Architecture("Dinov2Config", "Dinov2Model", IMAGE | {"mlp_ratio": 2}, "image"),
    "beit": Architecture("BeitConfig", "BeitModel", IMAGE | {"use_relative_position_bias": True}, "image"),
    "deit": Architecture("DeiTConfig", "DeiTModel", IMAGE, "image"),
    "siglip": Architecture("SiglipVisionConfig", "SiglipVisionModel", IMAGE, "image"),
    "poolformer": Architecture("PoolFormerConfig", "PoolFormerModel", {"hidden_sizes": [16, 24], "depths": [1, 1], "num_encoder_blocks": 2, "patch_sizes": [7, 3], "strides": [4, 2], "padding": [2, 1], "mlp_ratio": 2.0}, "image", cuts_heads=False, side=32),
    "pvt": Architecture("PvtConfig", "PvtModel", {"image_size": 32, "num_encoder_blocks": 2, "depths": [1, 1], "sequence_reduction_ratios": [2, 1], "hidden_sizes": [32, 64], "patch_sizes": [4, 2], "strides": [4, 2], "num_attention_heads": [8, 8], "mlp_ratios": [2, 2]}, "image", side=32),
    "mobilevit": Architecture("MobileViTConfig", "MobileViTModel", {"image_size": 32, "hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [16, 16, 16, 16, 16, 16, 32], "num_attention_heads": 8}, "image", side=32),
    "regnet": Architecture("RegNetConfig", "RegNetModel", {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "groups_width": 8}, "image", cuts_heads=False, side=32),
    "resnet": Architecture("ResNetConfig", "ResNetModel", {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 2]}, "image", cuts_heads=False, side=32),
    "mobilenetv2": Architecture("MobileNetV2Config", "MobileNetV2Model", {"image_size": 32, "depth_multiplier": 0.25}, "image", cuts_heads=False, side=32),
    "marian": Architecture("MarianConfig", "MarianModel", {"vocab_size": 97, "d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 8, "decoder_attention_heads": 8, "encoder_ffn_dim": 112, "decoder_ffn_dim": 112, "max_position_embeddings": 64, "pad_token_id": 0, "decoder_start_token_id": 0}, "text to text"),
    "hubert": Architecture("HubertConfig", "HubertModel", TEXT | {"conv_dim": [24, 20], "conv_kernel": [10, 3], "conv_stride": [5, 2], "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}, "wave"),
    "clip-text": Architecture("CLIPTextConfig", "CLIPTextModel", TEXT | {"eos_token_id": 2, "max_position_embeddings": 64}),
    "xlnet": Architecture("XLNetConfig", "XLNetModel", {"vocab_size": 97, "d_model": 64, "n_layer": 2, "n_head": 8, "d_inner": 112}),
    "roformer": Architecture("RoFormerConfig", "RoFormerModel", TEXT | {"embedding_size": 64, "max_position_embeddings": 64}),
    "esm": Architecture("EsmConfig", "EsmModel", TEXT | {"pad_token_id": 0, "mask_token_id": 3, "position_embedding_type": "rotary"}),
}  # fmt: skip

ARCHITECTURES = MATRIX | FURTHER

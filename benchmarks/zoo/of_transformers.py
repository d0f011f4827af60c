"""transformers: architectures built from tiny configs, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .entries import Inputs, Net

_CORE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_IDS = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_TEXT = {**_CORE, **_IDS, "intermediate_size": 64, "max_position_embeddings": 64}
_GQA = {**_TEXT, "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **_IDS}
_IMAGE = {**_CORE, "intermediate_size": 64, "image_size": 32, "patch_size": 8}
_PAIR = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64,
    "decoder_start_token_id": 1, **_IDS,
}  # fmt: skip
_T5 = {
    "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0, **_IDS,
}  # fmt: skip
_WAVE = {
    **_CORE, "intermediate_size": 64, "conv_dim": (16, 16), "conv_kernel": (5, 3), "conv_stride": (4, 2),
    "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4,
    "vocab_size": 30, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_MAMBA = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "expand": 2, **_IDS}
_MOE = {**_GQA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}


def _random(*shape: int) -> Any:
    import torch

    return torch.randn(2, *shape)


def _tokens(length: int = 10, high: int = 90) -> Any:
    import torch

    return torch.randint(3, high, (2, length))


def _text(**more: Any) -> dict[str, Any]:
    return {"input_ids": _tokens(), **more}


def _masked() -> dict[str, Any]:
    import torch

    return {"input_ids": _tokens(), "attention_mask": torch.tensor([[1] * 10, [1] * 6 + [0] * 4])}


def _decode() -> dict[str, Any]:
    return {"input_ids": _tokens(), "use_cache": False}


def _both() -> dict[str, Any]:
    return {"input_ids": _tokens(), "decoder_input_ids": _tokens(7), "use_cache": False}


def _both_masked() -> dict[str, Any]:
    import torch

    return {**_both(), "attention_mask": torch.ones(2, 10, dtype=torch.long)}


def _pixels(size: int = 32) -> Callable[[], dict[str, Any]]:
    return lambda: {"pixel_values": _random(3, size, size)}


def _sound(length: int = 400) -> Callable[[], dict[str, Any]]:
    return lambda: {"input_values": _random(length)}


def _text_image(size: int = 32) -> Callable[[], dict[str, Any]]:
    return lambda: {"input_ids": _tokens(), "pixel_values": _random(3, size, size)}


def _decisions() -> dict[str, Any]:
    import torch

    return {
        "states": _random(5, 7), "actions": _random(5, 3), "rewards": _random(5, 1), "returns_to_go": _random(5, 1),
        "timesteps": torch.arange(5).repeat(2, 1), "attention_mask": torch.ones(2, 5),
    }  # fmt: skip


Row = tuple[str, str, str, Mapping[str, Any], Callable[[], dict[str, Any]]]

_ENCODERS: list[Row] = [
    ("bert", "BertForSequenceClassification", "BertConfig", _TEXT, _masked),
    ("roberta", "RobertaForSequenceClassification", "RobertaConfig", _TEXT, _masked),
    ("albert", "AlbertForSequenceClassification", "AlbertConfig", {**_TEXT, "embedding_size": 16}, _masked),
    ("distilbert", "DistilBertForSequenceClassification", "DistilBertConfig",
     {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 100}, _masked),
    ("electra", "ElectraForSequenceClassification", "ElectraConfig", {**_TEXT, "embedding_size": 16}, _masked),
    ("deberta", "DebertaForSequenceClassification", "DebertaConfig",
     {**_TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 16}, _masked),
    ("deberta-v2", "DebertaV2ForSequenceClassification", "DebertaV2Config",
     {**_TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8}, _masked),
    ("mpnet", "MPNetForSequenceClassification", "MPNetConfig", _TEXT, _masked),
    ("mobilebert", "MobileBertForSequenceClassification", "MobileBertConfig",
     {**_TEXT, "embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16}, _masked),
    ("squeezebert", "SqueezeBertForSequenceClassification", "SqueezeBertConfig", {**_TEXT, "embedding_size": 32},
     _masked),
    ("xlnet", "XLNetForSequenceClassification", "XLNetConfig",
     {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, **_IDS}, _text),
    ("convbert", "ConvBertForSequenceClassification", "ConvBertConfig", {**_TEXT, "embedding_size": 16}, _masked),
    ("fnet", "FNetForSequenceClassification", "FNetConfig", {**_TEXT, "use_tpu_fourier_optimizations": False},
     _text),
    # Its default kernel, 65 long, is wider than this input: oneDNN's backward of one such channel writes out of bounds.
    ("nystromformer", "NystromformerForSequenceClassification", "NystromformerConfig",
     {**_TEXT, "num_landmarks": 16, "segment_means_seq_len": 16, "conv_kernel_size": 9},
     lambda: {"input_ids": _tokens(16)}),
    ("roformer", "RoFormerForSequenceClassification", "RoFormerConfig", {**_TEXT, "embedding_size": 16}, _masked),
    ("modernbert", "ModernBertForSequenceClassification", "ModernBertConfig",
     {**_TEXT, "cls_token_id": 1, "sep_token_id": 2, "global_attn_every_n_layers": 2, "local_attention": 8},
     _masked),
    ("rembert", "RemBertForSequenceClassification", "RemBertConfig",
     {**_TEXT, "input_embedding_size": 16, "output_embedding_size": 16}, _masked),
    ("funnel", "FunnelForSequenceClassification", "FunnelConfig",
     {"d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64, "block_sizes": [1, 1], "num_decoder_layers": 1,
      "vocab_size": 100, "attention_type": "factorized"}, _text),
    ("longformer", "LongformerForSequenceClassification", "LongformerConfig",
     {**_TEXT, "attention_window": [4, 4]}, lambda: {"input_ids": _tokens(16)}),
    ("big-bird", "BigBirdForSequenceClassification", "BigBirdConfig", {**_TEXT, "attention_type": "original_full"},
     _text),
    ("megatron-bert", "MegatronBertForSequenceClassification", "MegatronBertConfig", _TEXT, _masked),
    ("flaubert", "FlaubertForSequenceClassification", "FlaubertConfig",
     {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "n_words": 100, "max_position_embeddings": 64}, _text),
    ("layoutlm", "LayoutLMForSequenceClassification", "LayoutLMConfig", {**_TEXT,
     "max_2d_position_embeddings": 64}, _text),
    ("yoso", "YosoForSequenceClassification", "YosoConfig", {**_TEXT, "use_expectation": True}, _masked),
]  # fmt: skip

_DECODERS: list[Row] = [
    ("gpt2", "GPT2LMHeadModel", "GPT2Config", _GPT, _decode),
    ("openai-gpt", "OpenAIGPTLMHeadModel", "OpenAIGPTConfig", _GPT, _text),
    ("gpt-bigcode", "GPTBigCodeForCausalLM", "GPTBigCodeConfig", {**_GPT, "multi_query": True}, _decode),
    ("gpt-neo", "GPTNeoForCausalLM", "GPTNeoConfig",
     {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
      "window_size": 4, "max_position_embeddings": 64, **_IDS}, _decode),
    ("gpt-neox", "GPTNeoXForCausalLM", "GPTNeoXConfig", _TEXT, _decode),
    ("gptj", "GPTJForCausalLM", "GPTJConfig", {**_GPT, "rotary_dim": 4}, _decode),
    ("codegen", "CodeGenForCausalLM", "CodeGenConfig", {**_GPT, "rotary_dim": 4}, _decode),
    ("opt", "OPTForCausalLM", "OPTConfig", {**_TEXT, "ffn_dim": 64, "word_embed_proj_dim": 32}, _decode),
    ("bloom", "BloomForCausalLM", "BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4, **_IDS}, _decode),
    ("mpt", "MptForCausalLM", "MptConfig", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 32, **_IDS},
     _decode),
    ("falcon", "FalconForCausalLM", "FalconConfig", {**_TEXT, "multi_query": True,
     "new_decoder_architecture": False}, _decode),
    ("falcon-alibi", "FalconForCausalLM", "FalconConfig", {**_TEXT, "alibi": True,
     "new_decoder_architecture": True, "num_kv_heads": 2}, _decode),
    ("llama", "LlamaForCausalLM", "LlamaConfig", _GQA, _decode),
    ("llama-classifier", "LlamaForSequenceClassification", "LlamaConfig", _GQA, _decode),
    ("mistral", "MistralForCausalLM", "MistralConfig", {**_GQA, "sliding_window": 4}, _decode),
    ("mixtral", "MixtralForCausalLM", "MixtralConfig", {**_GQA, "num_local_experts": 4}, _decode),
    ("qwen2", "Qwen2ForCausalLM", "Qwen2Config", _GQA, _decode),
    ("qwen2-moe", "Qwen2MoeForCausalLM", "Qwen2MoeConfig", {**_MOE, "shared_expert_intermediate_size": 32},
     _decode),
    ("qwen3", "Qwen3ForCausalLM", "Qwen3Config", {**_GQA, "head_dim": 8}, _decode),
    ("qwen3-moe", "Qwen3MoeForCausalLM", "Qwen3MoeConfig", {**_MOE, "head_dim": 8}, _decode),
    ("gemma", "GemmaForCausalLM", "GemmaConfig", {**_GQA, "head_dim": 8}, _decode),
    ("gemma2", "Gemma2ForCausalLM", "Gemma2Config", {**_GQA, "head_dim": 8, "sliding_window": 4}, _decode),
    ("gemma3", "Gemma3ForCausalLM", "Gemma3TextConfig", {**_GQA, "head_dim": 8, "sliding_window": 4}, _decode),
    ("phi", "PhiForCausalLM", "PhiConfig", _TEXT, _decode),
    ("phi3", "Phi3ForCausalLM", "Phi3Config", _GQA, _decode),
    ("phimoe", "PhimoeForCausalLM", "PhimoeConfig", {**_GQA, "num_local_experts": 4}, _decode),
    ("stablelm", "StableLmForCausalLM", "StableLmConfig", _GQA, _decode),
    ("starcoder2", "Starcoder2ForCausalLM", "Starcoder2Config", _GQA, _decode),
    ("cohere", "CohereForCausalLM", "CohereConfig", _GQA, _decode),
    ("olmo", "OlmoForCausalLM", "OlmoConfig", _GQA, _decode),
    ("olmo2", "Olmo2ForCausalLM", "Olmo2Config", _GQA, _decode),
    ("olmoe", "OlmoeForCausalLM", "OlmoeConfig", {**_GQA, "num_experts": 4, "num_experts_per_tok": 2}, _decode),
    ("granite", "GraniteForCausalLM", "GraniteConfig", _GQA, _decode),
    ("granite-moe", "GraniteMoeForCausalLM", "GraniteMoeConfig", {**_GQA, "num_local_experts": 4,
     "num_experts_per_tok": 2}, _decode),
    ("glm", "GlmForCausalLM", "GlmConfig", {**_GQA, "head_dim": 8}, _decode),
    ("nemotron", "NemotronForCausalLM", "NemotronConfig", _GQA, _decode),
    ("persimmon", "PersimmonForCausalLM", "PersimmonConfig", _TEXT, _decode),
    ("dbrx", "DbrxForCausalLM", "DbrxConfig",
     {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 32, "vocab_size": 100,
      "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
     "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2}}, _decode),
    ("gpt-oss", "GptOssForCausalLM", "GptOssConfig",
     {**_GQA, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4}, _decode),
    ("deepseek-v3", "DeepseekV3ForCausalLM", "DeepseekV3Config",
     {**_TEXT, "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2,
     "topk_group": 1,
      "moe_intermediate_size": 32, "kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8,
     "qk_nope_head_dim": 8,
      "v_head_dim": 8, "first_k_dense_replace": 1}, _decode),
    ("xglm", "XGLMForCausalLM", "XGLMConfig",
     {"d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4, "max_position_embeddings": 64, **_IDS},
     _decode),
    ("biogpt", "BioGptForCausalLM", "BioGptConfig", _TEXT, _decode),
    ("ctrl", "CTRLLMHeadModel", "CTRLConfig", {**_GPT, "dff": 64}, _decode),
    ("smollm3", "SmolLM3ForCausalLM", "SmolLM3Config", _GQA, _decode),
    ("mamba", "MambaForCausalLM", "MambaConfig", _MAMBA, _decode),
    ("mamba2", "Mamba2ForCausalLM", "Mamba2Config", {**_MAMBA, "num_heads": 8, "head_dim": 8, "n_groups": 2,
     "chunk_size": 8}, _decode),
    ("falcon-mamba", "FalconMambaForCausalLM", "FalconMambaConfig", _MAMBA, _decode),
    ("rwkv", "RwkvForCausalLM", "RwkvConfig", {"hidden_size": 32, "num_hidden_layers": 2,
     "attention_hidden_size": 32, **_IDS}, _decode),
    ("recurrent-gemma", "RecurrentGemmaForCausalLM", "RecurrentGemmaConfig",
     {**_TEXT, "num_hidden_layers": 3, "num_key_value_heads": 1, "lru_width": 32, "attention_window_size": 16},
     _decode),
    ("jamba", "JambaForCausalLM", "JambaConfig",
     {**_GQA, "num_experts": 2, "mamba_d_state": 8, "attn_layer_period": 2, "attn_layer_offset": 1,
      "expert_layer_period": 2, "expert_layer_offset": 1, "use_mamba_kernels": False}, _decode),
    ("zamba2", "Zamba2ForCausalLM", "Zamba2Config",
     {**_TEXT, "num_key_value_heads": 4, "mamba_d_state": 8, "mamba_ngroups": 1, "n_mamba_heads": 8,
     "chunk_size": 8,
      "use_mamba_kernels": False, "layers_block_type": ["mamba", "hybrid"], "num_mem_blocks": 1}, _decode),
    ("lfm2", "Lfm2ForCausalLM", "Lfm2Config", {**_GQA, "layer_types": ["conv", "full_attention"]}, _decode),
]  # fmt: skip

_PAIRS: list[Row] = [
    ("t5", "T5ForConditionalGeneration", "T5Config", _T5, _both),
    ("t5-gated", "T5ForConditionalGeneration", "T5Config", {**_T5, "feed_forward_proj": "gated-gelu"}, _both),
    ("umt5", "UMT5ForConditionalGeneration", "UMT5Config", _T5, _both),
    ("longt5", "LongT5ForConditionalGeneration", "LongT5Config", {**_T5, "local_radius": 4}, _both_masked),
    ("switch", "SwitchTransformersForConditionalGeneration", "SwitchTransformersConfig",
     {**_T5, "num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1}, _both_masked),
    ("bart", "BartForConditionalGeneration", "BartConfig", _PAIR, _both),
    ("mbart", "MBartForConditionalGeneration", "MBartConfig", _PAIR, _both),
    ("pegasus", "PegasusForConditionalGeneration", "PegasusConfig", _PAIR, _both),
    ("blenderbot", "BlenderbotForConditionalGeneration", "BlenderbotConfig", _PAIR, _both),
    ("marian", "MarianMTModel", "MarianConfig", _PAIR, _both),
    ("m2m100", "M2M100ForConditionalGeneration", "M2M100Config", _PAIR, _both),
    ("prophetnet", "ProphetNetForConditionalGeneration", "ProphetNetConfig",
     {"hidden_size": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_encoder_layers": 2,
     "num_decoder_layers": 2,
      "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "max_position_embeddings": 64, **_IDS},
     _both),
    ("nllb-moe", "NllbMoeForConditionalGeneration", "NllbMoeConfig",
     {**_PAIR, "num_experts": 4, "encoder_sparse_step": 2, "decoder_sparse_step": 2}, _both),
]  # fmt: skip

_VISION: list[Row] = [
    ("vit", "ViTForImageClassification", "ViTConfig", _IMAGE, _pixels()),
    ("deit", "DeiTForImageClassification", "DeiTConfig", _IMAGE, _pixels()),
    ("beit", "BeitForImageClassification", "BeitConfig", {**_IMAGE, "use_relative_position_bias": True}, _pixels()),
    ("data2vec-vision", "Data2VecVisionForImageClassification", "Data2VecVisionConfig", _IMAGE, _pixels()),
    ("dinov2", "Dinov2ForImageClassification", "Dinov2Config", {**_IMAGE, "mlp_ratio": 2}, _pixels()),
    ("vit-msn", "ViTMSNForImageClassification", "ViTMSNConfig", _IMAGE, _pixels()),
    ("ijepa", "IJepaForImageClassification", "IJepaConfig", _IMAGE, _pixels()),
    ("swin", "SwinForImageClassification", "SwinConfig",
     {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
     _pixels()),
    ("swinv2", "Swinv2ForImageClassification", "Swinv2Config",
     {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
     _pixels()),
    ("segformer", "SegformerForSemanticSegmentation", "SegformerConfig",
     {"hidden_sizes": [16, 32], "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [4, 2],
     "num_attention_heads": [2, 4],
      "patch_sizes": [7, 3], "strides": [4, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 32}, _pixels()),
    ("mobilevit", "MobileViTForImageClassification", "MobileViTConfig",
     {"image_size": 64, "hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 64]},
     _pixels(64)),
    ("levit", "LevitForImageClassification", "LevitConfig",
     {"image_size": 64, "hidden_sizes": [32, 48], "num_attention_heads": [2, 3], "depths": [1, 1], "key_dim": [8,
     8],
      "attention_ratio": [2, 2], "mlp_ratio": [2, 2], "down_ops": [["Subsample", 8, 4, 4, 2, 2], [""]]},
     _pixels(64)),
    ("pvt", "PvtForImageClassification", "PvtConfig",
     {"image_size": 64, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3,
     4]}, _pixels(64)),
    ("pvt-v2", "PvtV2ForImageClassification", "PvtV2Config",
     {"image_size": 64, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3,
     4]}, _pixels(64)),
    ("poolformer", "PoolFormerForImageClassification", "PoolFormerConfig",
     {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}, _pixels(64)),
    ("convnext", "ConvNextForImageClassification", "ConvNextConfig", {"hidden_sizes": [16, 32, 48, 64],
     "depths": [1, 1, 2, 1]}, _pixels(64)),
    ("convnextv2", "ConvNextV2ForImageClassification", "ConvNextV2Config", {"hidden_sizes": [16, 32, 48, 64],
     "depths": [1, 1, 2, 1]}, _pixels(64)),
    ("resnet", "ResNetForImageClassification", "ResNetConfig",
     {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 2]}, _pixels(64)),
    ("regnet", "RegNetForImageClassification", "RegNetConfig",
     {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 2], "groups_width": 8}, _pixels(64)),
    ("mobilenet-v2", "MobileNetV2ForImageClassification", "MobileNetV2Config", {"image_size": 64,
     "depth_multiplier": 0.5}, _pixels(64)),
    ("focalnet", "FocalNetForImageClassification", "FocalNetConfig",
     {"image_size": 32, "embed_dim": 16, "depths": [1, 1], "hidden_sizes": [16, 32], "focal_levels": [2, 2],
     "focal_windows": [3, 3]}, _pixels()),
    ("yolos", "YolosForObjectDetection", "YolosConfig", {**_IMAGE, "image_size": [32, 32],
     "num_detection_tokens": 5}, _pixels()),
    ("dpt", "DPTForDepthEstimation", "DPTConfig",
     {**_IMAGE, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 16, 16, 16],
      "fusion_hidden_size": 16, "is_hybrid": False}, _pixels()),
    ("glpn", "GLPNForDepthEstimation", "GLPNConfig",
     {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4],
     "decoder_hidden_size": 16}, _pixels(64)),
    ("hiera", "HieraForImageClassification", "HieraConfig",
     {"embed_dim": 16, "image_size": [64, 64], "patch_stride": [4, 4], "depths": [1, 1, 2, 1], "num_heads": [1, 2,
     4, 8], "masked_unit_size": [8, 8]}, _pixels(64)),
    ("imagegpt", "ImageGPTForImageClassification", "ImageGPTConfig",
     {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 101},
     lambda: {"input_ids": _tokens(), "use_cache": False}),
    ("timesformer", "TimesformerForVideoClassification", "TimesformerConfig", {**_IMAGE, "num_frames": 2},
     lambda: {"pixel_values": _random(2, 3, 32, 32)}),
    ("vivit", "VivitForVideoClassification", "VivitConfig", {**_IMAGE, "num_frames": 4, "tubelet_size": [2, 8, 8]},
     lambda: {"pixel_values": _random(4, 3, 32, 32)}),
    ("videomae", "VideoMAEForVideoClassification", "VideoMAEConfig", {**_IMAGE, "num_frames": 4},
     lambda: {"pixel_values": _random(4, 3, 32, 32)}),
]  # fmt: skip

_SOUND: list[Row] = [
    ("wav2vec2", "Wav2Vec2ForCTC", "Wav2Vec2Config", _WAVE, _sound()),
    ("hubert", "HubertForCTC", "HubertConfig", _WAVE, _sound()),
    ("wavlm", "WavLMForCTC", "WavLMConfig", _WAVE, _sound()),
    ("wav2vec2-conformer", "Wav2Vec2ConformerForCTC", "Wav2Vec2ConformerConfig", {**_WAVE,
     "conv_depthwise_kernel_size": 3}, _sound()),
    ("sew", "SEWForCTC", "SEWConfig", {**_WAVE, "squeeze_factor": 2}, _sound()),
    ("unispeech", "UniSpeechForCTC", "UniSpeechConfig", _WAVE, _sound()),
    ("data2vec-audio", "Data2VecAudioForCTC", "Data2VecAudioConfig", {**_WAVE, "num_conv_pos_embeddings": 2,
     "conv_pos_kernel_size": 3}, _sound()),
    ("ast", "ASTForAudioClassification", "ASTConfig",
     {**_CORE, "intermediate_size": 64, "patch_size": 4, "max_length": 24, "num_mel_bins": 16},
     lambda: {"input_values": _random(24, 16)}),
    ("whisper", "WhisperForConditionalGeneration", "WhisperConfig",
     {**_PAIR, "num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 20},
     lambda: {"input_features": _random(16, 40), "decoder_input_ids": _tokens(7), "use_cache": False}),
    ("speech-to-text", "Speech2TextForConditionalGeneration", "Speech2TextConfig",
     {**{k: v for k, v in _PAIR.items() if k != "max_position_embeddings"}, "input_feat_per_channel": 16,
     "conv_channels": 32,
      "max_source_positions": 40, "max_target_positions": 20},
     lambda: {"input_features": _random(40, 16), "decoder_input_ids": _tokens(7), "use_cache": False}),
]  # fmt: skip

_TOWERS = {
    "text_config": {**_TEXT, "projection_dim": 16},
    "vision_config": {**_IMAGE, "projection_dim": 16},
}
_MIXED: list[Row] = [
    ("clip", "CLIPModel", "CLIPConfig", {**_TOWERS, "projection_dim": 16}, _text_image()),
    ("siglip", "SiglipModel", "SiglipConfig", _TOWERS, _text_image()),
    ("blip", "BlipForImageTextRetrieval", "BlipConfig",
     {"text_config": {**_TEXT, "encoder_hidden_size": 32}, "vision_config": _IMAGE, "image_text_hidden_size": 16},
     _text_image()),
    ("vilt", "ViltForQuestionAnswering", "ViltConfig", {**_TEXT, "image_size": 32, "patch_size": 8,
     "max_image_length": -1}, _text_image()),
    ("clipseg", "CLIPSegModel", "CLIPSegConfig", {**_TOWERS, "projection_dim": 16}, _text_image()),
    ("owlvit", "OwlViTModel", "OwlViTConfig", {**_TOWERS, "projection_dim": 16}, _text_image()),
    ("visual-bert", "VisualBertModel", "VisualBertConfig", {**_TEXT, "visual_embedding_dim": 12},
     lambda: {"input_ids": _tokens(), "visual_embeds": _random(4, 12)}),
    ("lxmert", "LxmertModel", "LxmertConfig",
     {**_TEXT, "l_layers": 1, "x_layers": 1, "r_layers": 1, "visual_feat_dim": 12},
     lambda: {"input_ids": _tokens(), "visual_feats": _random(4, 12), "visual_pos": _random(4, 4)}),
    ("decision-transformer", "DecisionTransformerModel", "DecisionTransformerConfig",
     {"state_dim": 7, "act_dim": 3, "hidden_size": 32, "n_layer": 2, "n_head": 4, "max_ep_len": 64},
     _decisions),
    ("perceiver", "PerceiverForSequenceClassification", "PerceiverConfig",
     {"num_latents": 6, "d_latents": 32, "d_model": 24, "num_blocks": 1, "num_self_attends_per_block": 2,
      "num_self_attention_heads": 4, "num_cross_attention_heads": 4, "vocab_size": 100,
     "max_position_embeddings": 16},
     lambda: {"inputs": _tokens()}),
    ("patchtst", "PatchTSTForPrediction", "PatchTSTConfig",
     {"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8, "d_model": 32,
     "ffn_dim": 64,
      "num_attention_heads": 4, "num_hidden_layers": 2, "prediction_length": 4},
     lambda: {"past_values": _random(32, 3)}),
    ("patchtsmixer", "PatchTSMixerForPrediction", "PatchTSMixerConfig",
     {"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8, "d_model": 32,
     "num_layers": 2,
      "prediction_length": 4}, lambda: {"past_values": _random(32, 3)}),
]  # fmt: skip
_HEADLESS = {
    "fnet", "mamba", "mamba2", "falcon-mamba", "rwkv", "poolformer", "convnext", "convnextv2", "resnet", "regnet",
    "mobilenet-v2", "focalnet", "patchtsmixer",
}  # fmt: skip


def networks() -> list[Net]:
    """List the architectures."""
    rows = [*_ENCODERS, *_DECODERS, *_PAIRS, *_VISION, *_SOUND, *_MIXED]
    return [Net(f"transformers/{row[0]}", _maker(*row[1:]), row[0] not in _HEADLESS) for row in rows]


def _maker(
    cls: str, config: str, options: Mapping[str, Any], inputs: Callable[[], dict[str, Any]]
) -> Callable[[], Inputs]:
    def make() -> Inputs:
        from tests.helpers import torchvision_shim  # noqa: F401  (must come first)

        import transformers  # isort: skip

        transformers.logging.set_verbosity_error()
        settings = {k: dict(v) if isinstance(v, dict) else v for k, v in options.items()}
        return getattr(transformers, cls)(getattr(transformers, config)(**settings)), (), inputs()

    return make

"""A small configuration of every causal language model of transformers."""

import copy
import warnings

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.tiny_ppo import TOKENIZER

NAMES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
MOST_PARAMETERS = 20_000_000
SPECIAL = {"pad_token_id": TOKENIZER.pad_id, "bos_token_id": 1, "eos_token_id": TOKENIZER.eos_id}
SIZES = {  # by the names that sizes commonly have
    32: "hidden_size n_embd d_model dim_model hidden_size_global emb_dim embedding_size attention_hidden_size lru_width "
        "shared_intermediate_size text_hidden_size out_hidden_size output_embedding_size mlp_dim input_embedding_size "
        "adapter_in_dim adapter_out_dim adapter_input_size adapter_output_size",
    2: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers num_encoder_layers depth "
       "conf_num_hidden_layers num_key_value_heads num_experts_per_tok moe_topk moe_top_k moe_k kv_n_heads num_dense_layers "
       "swa_num_key_value_heads linear_num_key_heads layer_group_size index_topk_blocks",
    4: "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads attention_heads "
       "num_decoder_attention_heads num_encoder_attention_heads num_experts num_local_experts n_routed_experts moe_num_experts "
       "swa_num_attention_heads linear_num_value_heads linear_num_heads index_n_heads rotary_dim num_memory_blocks",
    8: "head_dim state_size mamba_d_state ssm_state_size linear_key_head_dim linear_value_head_dim linear_head_dim "
       "qk_nope_head_dim qk_rope_head_dim v_head_dim swa_head_dim index_head_dim mamba_head_dim mamba_d_head mamba_n_heads "
       "mamba_num_heads n_mamba_heads kv_channels dim_head attention_head_dim d_head attention_head_size chunk_size "
       "mamba_chunk_size hidden_size_per_layer_input laurel_rank adapter_rank router_hidden_size d_rel",
    16: "q_lora_rank kv_lora_rank o_lora_rank gated_norm_rank hc_lowrank num_centroids time_step_rank mamba_dt_rank",
    48: "intermediate_size ffn_dim n_inner d_ff dff dim_ff d_inner decoder_ffn_dim encoder_ffn_dim ffn_hidden_size "
        "intermediate_size_mlp feed_forward_size dense_intermediate_size prefix_dense_intermediate_size",
    24: "moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size moe_shared_expert_intermediate_size",
    1: "n_group topk_group n_groups mamba_n_groups mamba_ngroups n_shared_experts first_k_dense_replace num_shared_experts "
       "moe_num_shared_experts zero_expert_num o_groups",
    128: "index_topk max_position_embeddings n_positions n_ctx max_seq_len context_length max_target_positions",
}  # fmt: skip
SMALL = {name: size for size, names in SIZES.items() for name in names.split()} | {
    "vocab_size": TOKENIZER.vocab_size, "vocab_size_per_layer_input": TOKENIZER.vocab_size,
    "encoder_hash_byte_group_vocab": 200, "unpadded_vocab_size": TOKENIZER.vocab_size, "decoder_vocab_size": TOKENIZER.vocab_size,
}  # fmt: skip
BEGINNING_PAD = {"pad_token_id": 1}  # places are numbered from it on
ZAMBA = {"attention_hidden_size": 64, "attention_head_dim": 16}  # attention reads two streams
FOUR_LAYERS = {"num_hidden_layers": 4}  # of which the last one attends
PAIRS = {"layer_types": ["sliding_attention", "full_attention"] * 2, "num_hidden_layers": 4}
# Of configs that transformers refuses as they are by default.
PARTS = {"text_encoder": {"model_type": "t5"}, "audio_encoder": {"model_type": "encodec"}, "decoder": {}}
DEFAULTS = {
    "musicgen": PARTS,
    "musicgen_melody": PARTS,
    "gemma4_assistant": {
        "text_config": {"model_type": "gemma4_text", "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0},
    },
}  # fmt: skip
OWN = {  # what a family wants besides, for its sizes to agree and for each of its kinds of layers to be there
    "bailing_hybrid": FOUR_LAYERS | {"num_experts": 16, "num_experts_per_tok": 2, "num_group": 1, "n_group": 1, "topk_group": 1},
    "kimi_linear": FOUR_LAYERS | {"num_experts_per_token": 2, "num_local_experts": 16},
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1]}}},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10_000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_vision_encoder": {"pyramid_num_routed": [-1, 4]},
    "gemma4_assistant": {"backbone_hidden_size": 32},
    "gemma4_unified_assistant": {"backbone_hidden_size": 32},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": PAIRS | {"num_kv_shared_layers": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 8},
    "qwen4_exp_text": FOUR_LAYERS | {
        "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 128, "indexer_compress_ratio": 2,
    },
    "reformer": {
        "axial_pos_embds_dim": (16, 16), "axial_pos_shape": (8, 16), "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8,
    },
    "xlm": {"causal": True},
    "xmod": BEGINNING_PAD | {"default_language": "en_XX"},
    "zamba": ZAMBA | {"num_hidden_layers": 5, "layers_block_type": ["linear_attention", "linear_attention", "hybrid", "linear_attention", "hybrid"]},
    "zamba2": ZAMBA | {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
    **{name: {"head_dim": 8} for name in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
    **dict.fromkeys(
        ("camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xglm", "prophetnet"),
        BEGINNING_PAD,
    ),
    **dict.fromkeys(
        ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "jamba", "olmo_hybrid", "minimax", "inkling_text", "inkling2_text"),
        FOUR_LAYERS,
    ),
    "jamba": FOUR_LAYERS | {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
}  # fmt: skip


def tiny_config(name):
    """A small configuration: the default one with other sizes, those of its parts, too; an encoder as a decoder."""
    default = CONFIG_MAPPING[name](**copy.deepcopy(DEFAULTS.get(name, {})))  # some take parts out of it
    return type(default)(**_smaller(default) | OWN.get(name, {}))


def _smaller(default):
    given = default.to_dict()
    sizes = {key: value for key, value in SMALL.items() if isinstance(given.get(key), int)}
    if "kv_lora_rank" in given:  # keys are made anew for every head
        sizes["num_key_value_heads"] = SMALL["num_attention_heads"]
    if "text_config" not in type(default).sub_configs:
        sizes |= SPECIAL
    for name in type(default).sub_configs:
        part = getattr(default, name, None)
        if isinstance(part, PreTrainedConfig):
            given_for_part = DEFAULTS.get(default.model_type, {}).get(name, {})
            sizes[name] = type(part)(
                **_smaller(part) | OWN.get(part.model_type, {}) | given_for_part
            ).to_dict()
    if "is_decoder" in given:
        sizes |= {"is_decoder": True, "is_encoder_decoder": False}
    return sizes


def tiny_model(name):
    """A model with random weights that give it logits of some size. Raises ValueError where it is not tiny."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = tiny_config(name)
        with torch.device("meta"):
            size = sum(each.numel() for each in AutoModelForCausalLM.from_config(made).parameters())
        if size > MOST_PARAMETERS:
            raise ValueError(f"{size / 1e6:.0f}M parameters")
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(made).eval()

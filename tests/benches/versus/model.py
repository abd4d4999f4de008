"""Writes a GGUF file of the shape in a config.json, with random weights: what llama.cpp is given.

All matrices have one type, as `llama-quantize --pure` makes them; norms and the router are F32. One pool of
random blocks is dealt out to all tensors, each from another place of it: values say nothing about speed.
"""

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

TYPES = {"q4_0": Type.Q4_0, "q8_0": Type.Q8_0, "bf16": Type.BF16}
FILE_TYPES = {"q4_0": 2, "q8_0": 7, "bf16": 32}
# llama.cpp puts these types where its AMX kernels are, and aborts where a product of attention that is not
# contiguous meets one there (no backend takes it): the two matrices of latent attention get a neighbour.
WITHOUT_AMX = {Type.Q4_0: Type.Q5_0, Type.Q8_0: Type.BF16}
# Bytes of a block's scale, and a scale that keeps activations finite through all layers.
SCALES = {Type.Q4_0: 0.0043, Type.Q5_0: 0.0021, Type.Q8_0: 0.00027}
POOL_BYTES = 64 << 20


def pool(kind, rng):
    """Random blocks of a type, as bytes."""
    _, size = gguf.GGML_QUANT_SIZES[kind]
    count = POOL_BYTES // size
    if kind == Type.BF16:
        bits = (rng.standard_normal(count, dtype=np.float32) * 0.02).view(np.uint32)
        return (bits >> 16).astype(np.uint16).view(np.uint8)
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    blocks[:, :2] = np.frombuffer(np.float16(SCALES[kind]).tobytes(), np.uint8)
    return blocks.reshape(-1)


class Model:
    """A file under construction: tensors are named first, and made when they are written."""

    def __init__(self, path, architecture, kind):
        self.writer = gguf.GGUFWriter(path, architecture)
        self.kind = kind
        self.rng = np.random.default_rng(1)
        self.pools = {}
        self.tensors = []

    def matrix(self, name, *extents, kind=None):
        """A matrix, or several, by extents as GGUF has them: the summed one first."""
        kind = kind or self.kind
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        if extents[0] % elements:
            raise SystemExit(f"{name}: rows of {extents[0]} are no whole blocks of {elements}")
        shape = tuple(reversed(extents[1:])) + (extents[0] // elements * size,)
        count = int(np.prod(shape))
        self.writer.add_tensor_info(name, shape, np.dtype(np.uint8), count, raw_dtype=kind)
        begin = len(self.tensors) * 977 * size
        self.tensors.append(lambda: self.dealt(kind, begin, count).reshape(shape))

    def dealt(self, kind, begin, count):
        if kind not in self.pools:
            self.pools[kind] = pool(kind, self.rng)
        blocks = self.pools[kind]
        return np.resize(np.roll(blocks, -(begin % len(blocks))), count)

    def floats(self, name, values):
        values = np.asarray(values, np.float32)
        self.writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
        self.tensors.append(lambda: values)

    def norm(self, name, width):
        self.floats(name, np.ones(width))

    def write(self):
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_ti_data_to_file()
        for made in self.tensors:
            self.writer.write_tensor_data(made())
        self.writer.close()


def write(config, kind, path):
    """Writes the file; `kind` is one of TYPES."""
    architecture = {"deepseek_v2": deepseek, "deepseek_v3": deepseek, "qwen2": qwen2}.get(config["model_type"])
    if architecture is None:
        raise SystemExit(f"model_type is {config['model_type']}, expected deepseek_v2, deepseek_v3 or qwen2")
    model = architecture(config, TYPES[kind], path)
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    out = model.writer
    out.add_file_type(FILE_TYPES[kind])
    out.add_quantization_version(2)
    out.add_tokenizer_model("none")
    out.add_vocab_size(vocab)
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(hidden)
    out.add_block_count(config["num_hidden_layers"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_head_count(config["num_attention_heads"])
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_rope_freq_base(config["rope_theta"])
    model.matrix("token_embd.weight", hidden, vocab)
    model.norm("output_norm.weight", hidden)
    if not config.get("tie_word_embeddings"):
        model.matrix("output.weight", hidden, vocab)
    model.write()


def feed_forward(model, layer, hidden, width):
    model.matrix(f"{layer}.ffn_gate.weight", hidden, width)
    model.matrix(f"{layer}.ffn_up.weight", hidden, width)
    model.matrix(f"{layer}.ffn_down.weight", width, hidden)


def deepseek(c, kind, path):
    """Latent attention in its absorbed form, and experts behind the first dense layers."""
    model = Model(path, "deepseek2", kind)
    out = model.writer
    rank, rope = c["kv_lora_rank"], c["qk_rope_head_dim"]
    nope, value = c["qk_nope_head_dim"], c["v_head_dim"]
    scoring = gguf.ExpertGatingFuncType[c.get("scoring_func", "softmax").upper()]
    out.add_head_count_kv(1)
    out.add_kv_lora_rank(rank)
    out.add_key_length(rank + rope)
    out.add_value_length(rank)
    out.add_key_length_mla(nope + rope)
    out.add_value_length_mla(value)
    out.add_rope_dimension_count(rope)
    out.add_leading_dense_block_count(c["first_k_dense_replace"])
    out.add_expert_count(c["n_routed_experts"])
    out.add_expert_used_count(c["num_experts_per_tok"])
    out.add_expert_shared_count(c["n_shared_experts"])
    out.add_expert_feed_forward_length(c["moe_intermediate_size"])
    out.add_expert_weights_scale(c["routed_scaling_factor"])
    out.add_expert_gating_func(scoring)
    # Without it, the number of layers is what tells a model without this rank.
    out.add_uint32("deepseek2.attention.q_lora_rank", c["q_lora_rank"] or 0)
    for at in range(c["num_hidden_layers"]):
        layer = f"blk.{at}"
        latent_attention(model, layer, c, WITHOUT_AMX.get(kind, kind))
        model.norm(f"{layer}.ffn_norm.weight", c["hidden_size"])
        if at < c["first_k_dense_replace"]:
            feed_forward(model, layer, c["hidden_size"], c["intermediate_size"])
        else:
            experts(model, layer, c)
    return model


def latent_attention(model, layer, c, absorbed):
    hidden, heads, rank = c["hidden_size"], c["num_attention_heads"], c["kv_lora_rank"]
    nope, rope, value = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
    model.norm(f"{layer}.attn_norm.weight", hidden)
    if low := c["q_lora_rank"]:
        model.matrix(f"{layer}.attn_q_a.weight", hidden, low)
        model.norm(f"{layer}.attn_q_a_norm.weight", low)
        model.matrix(f"{layer}.attn_q_b.weight", low, heads * (nope + rope))
    else:
        model.matrix(f"{layer}.attn_q.weight", hidden, heads * (nope + rope))
    model.matrix(f"{layer}.attn_kv_a_mqa.weight", hidden, rank + rope)
    model.norm(f"{layer}.attn_kv_a_norm.weight", rank)
    model.matrix(f"{layer}.attn_k_b.weight", nope, rank, heads, kind=absorbed)
    model.matrix(f"{layer}.attn_v_b.weight", rank, value, heads, kind=absorbed)
    model.matrix(f"{layer}.attn_output.weight", heads * value, hidden)


def experts(model, layer, c):
    hidden, count, width = c["hidden_size"], c["n_routed_experts"], c["moe_intermediate_size"]
    model.floats(f"{layer}.ffn_gate_inp.weight", model.rng.standard_normal((count, hidden)) * 0.02)
    if c.get("scoring_func") == "sigmoid":
        model.floats(f"{layer}.exp_probs_b.bias", np.zeros(count))
    model.matrix(f"{layer}.ffn_gate_exps.weight", hidden, width, count)
    model.matrix(f"{layer}.ffn_up_exps.weight", hidden, width, count)
    model.matrix(f"{layer}.ffn_down_exps.weight", width, hidden, count)
    shared = c["n_shared_experts"] * width
    model.matrix(f"{layer}.ffn_gate_shexp.weight", hidden, shared)
    model.matrix(f"{layer}.ffn_up_shexp.weight", hidden, shared)
    model.matrix(f"{layer}.ffn_down_shexp.weight", shared, hidden)


def qwen2(c, kind, path):
    """Grouped attention with biases."""
    model = Model(path, "qwen2", kind)
    hidden, heads, kept = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
    width = hidden // heads
    model.writer.add_head_count_kv(kept)
    model.writer.add_rope_dimension_count(width)
    for at in range(c["num_hidden_layers"]):
        layer = f"blk.{at}"
        model.norm(f"{layer}.attn_norm.weight", hidden)
        for name, count in (("q", heads), ("k", kept), ("v", kept)):
            model.matrix(f"{layer}.attn_{name}.weight", hidden, count * width)
            model.floats(f"{layer}.attn_{name}.bias", np.zeros(count * width))
        model.matrix(f"{layer}.attn_output.weight", heads * width, hidden)
        model.norm(f"{layer}.ffn_norm.weight", hidden)
        feed_forward(model, layer, hidden, c["intermediate_size"])
    return model

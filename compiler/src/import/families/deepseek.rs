//! What DeepSeek-V2 and V3 have in common: latent attention, first some dense layers, then layers
//! of experts.

use crate::import::assembly::Block;
use crate::import::config::{COUNT, Common, Fields, WIDTH};
use crate::import::decoder::Model;
use crate::import::layers::ends::{norm, residual};
use crate::import::layers::experts::{ExpertsConfig, experts};
use crate::import::layers::latent_attention::{LatentConfig, latent_attention};
use crate::import::layers::mlp::mlp;
use crate::import::layers::router::{Method, RouterConfig};
use crate::import::rope::{Frequencies, RopeConfig};
use ir::error::IrError;
use ir::graph::ValueId;

/// More routed experts in all layers than any model has, and few enough to list.
const MAX_EXPERTS: i64 = 1 << 18;

/// A decoder with latent attention and experts.
pub struct DeepSeek {
    common: Common,
    rope: RopeConfig,
    attention: LatentConfig,
    dense_width: i64,
    /// Layers before the first one with experts.
    dense_layers: i64,
    experts: ExpertsConfig,
    drafts: i64,
}

impl DeepSeek {
    /// Reads the fields of both generations. The router's method and normalisation are the
    /// generation's own.
    pub fn read(f: &mut Fields, method: Method, normalise: bool, drafts: i64) -> DeepSeek {
        let common = Common::read(f);
        let rope = RopeConfig::read(f, true);
        refuse_variants(f);
        let attention = read_attention(f, &rope);
        let experts = read_experts(f, method, normalise);
        let dense_layers = f.int_or("first_k_dense_replace", 0, 0..=*COUNT.end());
        let keys = ["first_k_dense_replace", "num_hidden_layers"];
        f.relate(&keys, dense_layers <= common.layers, "at most num_hidden_layers");
        let listed = experts.router.experts.saturating_mul(common.layers) <= MAX_EXPERTS;
        let few = format!("at most {MAX_EXPERTS} experts in all layers");
        f.relate(&["n_routed_experts", "num_hidden_layers"], listed, &few);
        let dense_width = f.int("intermediate_size", WIDTH);
        DeepSeek { common, rope, attention, dense_width, dense_layers, experts, drafts }
    }
}

fn refuse_variants(f: &mut Fields) {
    // Restatements of other fields in newer files.
    f.ignore(&["head_dim", "qk_head_dim"]);
    if f.flag("attention_bias", false) {
        f.unsupported("attention_bias", true, "false");
    }
    if !f.flag("rope_interleave", true) {
        f.unsupported("rope_interleave", false, "true");
    }
    let freq = f.int_or("moe_layer_freq", 1, COUNT);
    if freq != 1 {
        f.unsupported("moe_layer_freq", freq, "1");
    }
}

fn read_attention(f: &mut Fields, rope: &RopeConfig) -> LatentConfig {
    let heads = f.int("num_attention_heads", COUNT);
    let kv_heads = f.int_or("num_key_value_heads", heads, COUNT);
    let keys = ["num_key_value_heads", "num_attention_heads"];
    f.relate(&keys, heads == kv_heads, "the same number");
    let plain = f.int("qk_nope_head_dim", WIDTH);
    let rotated = f.int("qk_rope_head_dim", 2..=*WIDTH.end());
    f.relate(&["qk_rope_head_dim"], rotated % 2 == 0, "an even number");
    LatentConfig {
        heads,
        q_rank: f.optional_int("q_lora_rank", WIDTH),
        kv_rank: f.int("kv_lora_rank", WIDTH),
        plain,
        rotated,
        value: f.int("v_head_dim", WIDTH),
        scale: ((plain + rotated) as f64).powf(-0.5) * rope.softmax_factor(),
    }
}

fn read_experts(f: &mut Fields, method: Method, normalise: bool) -> ExpertsConfig {
    let count = f.int("n_routed_experts", COUNT);
    let chosen = f.int("num_experts_per_tok", COUNT);
    let groups = f.int_or("n_group", 1, COUNT);
    let kept_groups = f.int_or("topk_group", 1, COUNT);
    let grouped = method != Method::Greedy && groups > 1;
    let keys = ["n_routed_experts", "n_group"];
    f.relate(&keys, !grouped || count % groups == 0, "a multiple of n_group");
    let pairs = !grouped || method != Method::Biased || count / groups >= 2;
    f.relate(&keys, pairs, "two experts or more in each group");
    let kept = !grouped || kept_groups <= groups;
    f.relate(&["topk_group", "n_group"], kept, "at most n_group");
    f.relate(&["num_experts_per_tok", "n_routed_experts"], chosen <= count, "at most as many");
    let open = if grouped { count / groups * kept_groups } else { count };
    let keys = ["num_experts_per_tok", "topk_group", "n_group", "n_routed_experts"];
    f.relate(&keys, chosen <= open || chosen > count, "at most the experts of the kept groups");
    let scale = f.positive("routed_scaling_factor", None, 1e6);
    let router =
        RouterConfig { method, experts: count, chosen, groups, kept_groups, normalise, scale };
    let shared = f.int_or("n_shared_experts", 0, 0..=*COUNT.end());
    ExpertsConfig { router, width: f.int("moe_intermediate_size", WIDTH), shared }
}

impl Model for DeepSeek {
    fn common(&self) -> &Common {
        &self.common
    }

    fn frequencies(&self) -> Frequencies {
        self.rope.frequencies(self.attention.rotated)
    }

    fn kind(&self, n: i64) -> &'static str {
        if n < self.dense_layers { "dense" } else { "expert" }
    }

    fn layer(
        &self,
        b: &mut Block,
        n: i64,
        prefix: &str,
        [x, rope]: [ValueId; 2],
    ) -> Result<ValueId, IrError> {
        let Common { hidden, eps, .. } = self.common;
        let attn = format!("{prefix}.self_attn");
        let y = norm(b, "n_attn", x, &format!("{prefix}.input_layernorm"), hidden, eps)?;
        let y = latent_attention(b, [y, rope], &attn, hidden, &self.attention)?;
        let x = residual(b, x, &[y])?;
        let y = norm(b, "n_mlp", x, &format!("{prefix}.post_attention_layernorm"), hidden, eps)?;
        let mlp_prefix = format!("{prefix}.mlp");
        if n < self.dense_layers {
            b.dim("f", self.dense_width);
            let y = mlp(b, y, &mlp_prefix, hidden, "f")?;
            return residual(b, x, &[y]);
        }
        let parts = experts(b, y, &mlp_prefix, hidden, &self.experts)?;
        residual(b, x, &parts)
    }

    fn drafts(&self) -> i64 {
        self.drafts
    }
}

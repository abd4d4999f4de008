//! Llama: grouped attention over rotated keys, and a gated network in every layer.

use super::Family;
use crate::import::assembly::Block;
use crate::import::config::{COUNT, Common, Fields, WIDTH};
use crate::import::decoder::Model;
use crate::import::layers::ends::{norm, residual};
use crate::import::layers::grouped_attention::{GroupedConfig, grouped_attention};
use crate::import::layers::mlp::mlp;
use crate::import::rope::{Frequencies, RopeConfig};
use ir::error::IrError;
use ir::graph::ValueId;

/// `LlamaForCausalLM`.
pub const FAMILY: Family =
    Family { architecture: "LlamaForCausalLM", name: "llama", read: |f| Box::new(read(f)) };

fn read(f: &mut Fields) -> Llama {
    let bias = f.flag("attention_bias", false);
    if f.flag("mlp_bias", false) {
        f.unsupported("mlp_bias", true, "false");
    }
    Llama::read(f, bias, bias)
}

/// A dense decoder with grouped attention.
pub struct Llama {
    common: Common,
    rope: RopeConfig,
    attention: GroupedConfig,
    width: i64,
}

impl Llama {
    /// Reads the fields that dense families share.
    pub fn read(f: &mut Fields, qkv_bias: bool, out_bias: bool) -> Llama {
        let common = Common::read(f);
        let heads = f.int("num_attention_heads", COUNT);
        let kv_heads = f.int_or("num_key_value_heads", heads, COUNT);
        let stated = f.optional_int("head_dim", WIDTH);
        let keys = ["num_attention_heads", "num_key_value_heads"];
        f.relate(&keys, heads % kv_heads == 0, "a multiple of num_key_value_heads");
        let keys = ["hidden_size", "num_attention_heads"];
        let whole = stated.is_some() || common.hidden % heads == 0;
        f.relate(&keys, whole, "a multiple of num_attention_heads, or a head_dim");
        let width = stated.unwrap_or(common.hidden / heads).max(1);
        let key = if stated.is_some() { "head_dim" } else { "hidden_size" };
        f.relate(&[key], width % 2 == 0, "heads of an even number of channels");
        let rope = RopeConfig::read(f, false);
        let scale = (width as f64).powf(-0.5) * rope.softmax_factor();
        let attention = GroupedConfig { heads, kv_heads, width, qkv_bias, out_bias, scale };
        Llama { rope, attention, width: f.int("intermediate_size", WIDTH), common }
    }
}

impl Model for Llama {
    fn common(&self) -> &Common {
        &self.common
    }

    fn frequencies(&self) -> Frequencies {
        self.rope.frequencies(self.attention.width)
    }

    fn kind(&self, _n: i64) -> &'static str {
        "dense"
    }

    fn layer(
        &self,
        b: &mut Block,
        _n: i64,
        prefix: &str,
        [x, rope]: [ValueId; 2],
    ) -> Result<ValueId, IrError> {
        let Common { hidden, eps, .. } = self.common;
        let attn = format!("{prefix}.self_attn");
        let y = norm(b, "n_attn", x, &format!("{prefix}.input_layernorm"), hidden, eps)?;
        let y = grouped_attention(b, [y, rope], &attn, hidden, &self.attention)?;
        let x = residual(b, x, &[y])?;
        let y = norm(b, "n_mlp", x, &format!("{prefix}.post_attention_layernorm"), hidden, eps)?;
        b.dim("f", self.width);
        let y = mlp(b, y, &format!("{prefix}.mlp"), hidden, "f")?;
        residual(b, x, &[y])
    }
}

//! DeepSeek-V3, R1, V3.1 and their kin (Moonlight, Kimi-K2): experts by biased sigmoid within
//! groups, and a layer that drafts.

use super::Family;
use super::deepseek::DeepSeek;
use crate::import::config::Fields;
use crate::import::layers::router::Method;

/// `DeepseekV3ForCausalLM`.
pub const FAMILY: Family = Family {
    architecture: "DeepseekV3ForCausalLM",
    name: "deepseek_v3",
    read: |f| Box::new(read(f)),
};

fn read(f: &mut Fields) -> DeepSeek {
    if let Some(other) = f.word("scoring_func").filter(|w| w != "sigmoid") {
        f.unsupported("scoring_func", other, "sigmoid");
    }
    if let Some(other) = f.word("topk_method").filter(|w| w != "noaux_tc") {
        f.unsupported("topk_method", other, "noaux_tc");
    }
    let normalise = f.flag("norm_topk_prob", true);
    let drafts = f.int_or("num_nextn_predict_layers", 0, 0..=1);
    DeepSeek::read(f, Method::Biased, normalise, drafts)
}

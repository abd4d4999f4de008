//! DeepSeek-V2, V2.5, V2-Lite: experts by softmax, perhaps within groups, weights as they are.

use super::Family;
use super::deepseek::DeepSeek;
use crate::import::config::Fields;
use crate::import::layers::router::Method;

/// `DeepseekV2ForCausalLM`.
pub const FAMILY: Family = Family {
    architecture: "DeepseekV2ForCausalLM",
    name: "deepseek_v2",
    read: |f| Box::new(read(f)),
};

fn read(f: &mut Fields) -> DeepSeek {
    if let Some(other) = f.word("scoring_func").filter(|w| w != "softmax") {
        f.unsupported("scoring_func", other, "softmax");
    }
    if f.flag("norm_topk_prob", false) {
        f.unsupported("norm_topk_prob", true, "false");
    }
    let method = match f.word("topk_method").as_deref() {
        None | Some("greedy") => Method::Greedy,
        Some("group_limited_greedy") => Method::GroupLimited,
        Some(other) => {
            let other = other.to_string();
            f.unsupported("topk_method", other, "greedy or group_limited_greedy");
            Method::Greedy
        }
    };
    DeepSeek::read(f, method, false, 0)
}

//! Qwen2 (and 2.5): Llama with biases on queries, keys and values.

use super::Family;
use super::llama::Llama;
use crate::import::config::Fields;

/// `Qwen2ForCausalLM`.
pub const FAMILY: Family =
    Family { architecture: "Qwen2ForCausalLM", name: "qwen2", read: |f| Box::new(read(f)) };

fn read(f: &mut Fields) -> Llama {
    for key in ["use_sliding_window", "use_mrope"] {
        if f.flag(key, false) {
            f.unsupported(key, true, "false");
        }
    }
    // Of sliding windows, which are off.
    f.ignore(&["sliding_window", "max_window_layers", "layer_types"]);
    Llama::read(f, true, false)
}

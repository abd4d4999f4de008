//! `-C key=value`: what the user may choose, with defaults. One row per key.

use crate::pack::format::{CACHED, Class, Format, Formats};
use crate::rewrite::choose::Kept;
use crate::rewrite::law;
use crate::rewrite::merge;
use crate::rewrite::saturate::Limits;
use ir::dtype::DType;
use std::fmt::Write;

/// Precision in which activations enter tile products. Sums, norms, softmax, router and the
/// residual stream are f32 either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compute {
    /// Activations as codes of 8 bits, a scale for each 32, where weights are rounded to integer
    /// codes; rounded to bf16 elsewhere.
    Auto,
    /// Activations rounded to bf16.
    Bf16,
    /// Activations as they are.
    F32,
}

impl Compute {
    /// Dtype of an activation that enters a tile product of real numbers.
    pub fn dtype(self) -> DType {
        match self {
            Compute::Auto | Compute::Bf16 => DType::BF16,
            Compute::F32 => DType::F32,
        }
    }
}

/// Above which choices of experts products take activations as the sum of two bf16 numbers, where
/// activations are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Above {
    /// Above none.
    None,
    /// Above the first: an error there reaches all of them.
    First,
    /// Above all, at twice the operations of nearly every product.
    All,
}

/// Which target makes the CPU's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// LLVM where the compiler was built with it, else Cranelift.
    Auto,
    /// LLVM.
    Llvm,
    /// Cranelift.
    Cranelift,
    /// Both; the runtime prefers LLVM's code.
    All,
}

/// Every choice.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Precision of tile products.
    pub compute: Compute,
    /// Where activations enter tile products in two parts.
    pub bf16x2: Above,
    /// Formats that weights are packed in.
    pub weights: Formats,
    /// What a sequence keeps.
    pub kv: Kept,
    /// How the KV cache is stored; `None`: in the dtype of `compute`.
    pub state: Option<Format>,
    /// Context and sequences of the step at which what is kept is decided.
    pub decode: (u32, u32),
    /// Laws that rewriting leaves out.
    pub without: Vec<String>,
    /// Whether rewriting keeps the order of sums.
    pub exact: bool,
    /// E-nodes of a block at most.
    pub max_e_nodes: usize,
    /// By how many per cent some step must take longer without a form of the model for it to be
    /// compiled too.
    pub form_gain: u32,
    /// Whether what is computed of a token must not depend, to the last bit, on how it came into a
    /// step and what else is in it; `None`: where that costs little.
    pub batch_invariant: Option<bool>,
    /// Rows of a page of state.
    pub page_tokens: u32,
    /// Instruction set levels to compile for; empty: the target's own choice.
    pub isa: Vec<String>,
    /// Greatest context, if less than the model's.
    pub context: Option<u32>,
    /// Which target makes the CPU's code.
    pub backend: Backend,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            compute: Compute::Auto,
            bf16x2: Above::First,
            weights: Formats::default(),
            kv: Kept::Auto,
            state: None,
            decode: (4096, 1),
            without: vec![],
            exact: false,
            max_e_nodes: Limits::default().nodes,
            form_gain: 10,
            batch_invariant: None,
            page_tokens: 64,
            isa: vec![],
            context: None,
            backend: Backend::Auto,
        }
    }
}

impl Options {
    /// Whether a token's bits must not depend on the step it is in; while that is not decided,
    /// they may.
    pub fn is_batch_invariant(&self) -> bool {
        self.batch_invariant == Some(true)
    }
}

/// A key of `-C`.
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Values it takes.
    pub values: &'static str,
    /// What it chooses.
    pub help: &'static str,
    get: fn(&Options) -> String,
    set: fn(&mut Options, &str) -> Option<()>,
}

/// A key whose values are the words of a table.
macro_rules! one_of {
    ($field:ident, $words:ident, $values:literal, $help:literal) => {
        Key {
            name: stringify!($field),
            values: $values,
            help: $help,
            get: |o| $words.iter().find(|w| w.1 == o.$field).map_or("", |w| w.0).into(),
            set: |o, v| {
                o.$field = $words.iter().find(|w| w.0 == v)?.1;
                Some(())
            },
        }
    };
}

/// A key whose values are the words of a table, or `auto`.
macro_rules! or_auto {
    ($name:literal, $field:ident, $words:ident, $values:literal, $help:literal) => {
        Key {
            name: $name,
            values: $values,
            help: $help,
            get: |o| {
                let word = |value| $words.iter().find(|w| w.1 == value).map_or("", |w| w.0);
                o.$field.map_or("auto", word).into()
            },
            set: |o, v| {
                let word = || $words.iter().find(|w| w.0 == v).map(|w| w.1);
                o.$field = if v == "auto" { None } else { Some(word()?) };
                Some(())
            },
        }
    };
}

/// A key whose values are the numbers of a range.
macro_rules! number {
    ($name:literal, $($field:tt).+, $range:expr, $values:literal, $help:literal) => {
        Key {
            name: $name,
            values: $values,
            help: $help,
            get: |o| o.$($field).+.to_string(),
            set: |o, v| {
                o.$($field).+ = v.parse().ok().filter(|n| ($range).contains(n))?;
                Some(())
            },
        }
    };
}

/// Words for formats of weights.
macro_rules! formats {
    () => {
        "stored|bf16|f16|fp8|int8|int8g32|int4|int4g64|int4e8m0|mxfp4"
    };
}

/// The key of a class of weights.
macro_rules! weights_of {
    ($class:ident, $name:literal, $help:literal) => {
        Key {
            name: concat!("weights.", $name),
            values: concat!("auto|", formats!()),
            help: $help,
            get: |o| {
                let word = |f: Option<Format>| f.map_or("stored", |f| f.name);
                o.weights.of(Class::$class).map_or("auto", word).into()
            },
            set: |o, v| {
                let format = if v == "auto" { None } else { Some(format(v)?) };
                o.weights.set(Class::$class, format);
                Some(())
            },
        }
    };
}

/// All keys, in the order of `-C help`.
pub const KEYS: &[Key] = &[
    one_of!(
        compute,
        COMPUTE,
        "auto|bf16|f32",
        "precision of activations in tile products (auto: int8 beside weights rounded to integers, else bf16)"
    ),
    one_of!(
        bf16x2,
        ABOVE,
        "none|first|all",
        "above which choices of experts activations enter products as two bf16 numbers"
    ),
    Key {
        name: "weights",
        values: formats!(),
        help: "format of matrices: as they are stored, floats, fp8 in blocks of 128 by 128, integers \
               with a scale for a row, or for 32 or 64 of its elements",
        get: |o| o.weights.all.map_or("stored", |f| f.name).into(),
        set: |o, v| {
            o.weights.all = format(v)?;
            Some(())
        },
    },
    weights_of!(Experts, "experts", "those of routed experts (auto: as `weights`)"),
    weights_of!(Shared, "shared", "those of shared experts"),
    weights_of!(Attention, "attention", "projections around attention"),
    weights_of!(Mlp, "mlp", "those of feed-forward blocks without experts"),
    weights_of!(Head, "head", "the matrix that makes logits"),
    one_of!(
        kv,
        KEPT,
        "auto|latent|expanded",
        "what is kept of a sequence (auto: what costs least at the decode point)"
    ),
    Key {
        name: "kv-dtype",
        values: "auto|bf16|f16|f32|fp8|int8|int8g32",
        help: "format of the KV cache (auto: dtype of compute, f16 where bf16x2 is above a choice; \
               fp8: a scale for 128 elements of a row)",
        get: |o| o.state.map_or("auto", |f| f.name).into(),
        set: |o, v| {
            let named = || CACHED.into_iter().find(|f| f.name == v);
            o.state = if v == "auto" { None } else { Some(named()?) };
            Some(())
        },
    },
    number!("state.context", decode.0, 1.., "N", "context of the decode point, in tokens"),
    number!("state.batch", decode.1, 1.., "N", "sequences of the decode point"),
    Key {
        name: RULES,
        values: "-NAME,..",
        help: "laws that rewriting leaves out (`explain` names those it used)",
        get: |o| o.without.iter().map(|name| format!("-{name}")).collect::<Vec<_>>().join(","),
        set: |o, v| {
            let name = |word: &str| known_law(word.strip_prefix('-')?);
            let words = v.split(',').filter(|w| !w.is_empty());
            o.without = words.map(name).collect::<Option<_>>()?;
            Some(())
        },
    },
    one_of!(exact, FLAG, "false|true", "whether rewriting keeps the order of sums"),
    number!(
        "max-e-nodes",
        max_e_nodes,
        1..,
        "N",
        "e-nodes of a block at most; the best graph so far is taken then"
    ),
    number!(
        "form-gain",
        form_gain,
        0..,
        "PERCENT",
        "compile a form of the model too where a step takes so much longer without it"
    ),
    or_auto!(
        "batch-invariant",
        batch_invariant,
        FLAG,
        "auto|false|true",
        "same bits for a token in any step, alone or not (auto: where it costs under 3 %)"
    ),
    number!("page", page_tokens, 1..=1024, "N", "rows of a page of state, 1 to 1024"),
    Key {
        name: "isa",
        values: "LEVEL,..",
        help: "instruction set levels to compile for (empty: all of the target's)",
        get: |o| o.isa.join(","),
        set: |o, v| {
            o.isa = v.split(',').filter(|l| !l.is_empty()).map(str::to_string).collect();
            Some(())
        },
    },
    Key {
        name: "context",
        values: "auto|N",
        help: "greatest context in tokens (auto: the model's)",
        get: |o| o.context.map_or("auto".into(), |c| c.to_string()),
        set: |o, v| {
            o.context = match v {
                "auto" => None,
                n => Some(n.parse().ok().filter(|c| *c > 0)?),
            };
            Some(())
        },
    },
    one_of!(
        backend,
        BACKENDS,
        "auto|llvm|cranelift|all",
        "which target makes the CPU's code (auto: llvm where this build has it)"
    ),
];

/// The format of a word; `None` within for `stored`.
fn format(word: &str) -> Option<Option<Format>> {
    if word == "stored" { Some(None) } else { Format::named(word).map(Some) }
}

const COMPUTE: [(&str, Compute); 3] =
    [("auto", Compute::Auto), ("bf16", Compute::Bf16), ("f32", Compute::F32)];

const KEPT: [(&str, Kept); 3] =
    [("auto", Kept::Auto), ("latent", Kept::Latent), ("expanded", Kept::Expanded)];

const FLAG: [(&str, bool); 2] = [("false", false), ("true", true)];

/// The key whose values are laws.
const RULES: &str = "rules";

/// Names of all laws that can be left out.
fn known_laws() -> Vec<&'static str> {
    let mut names: Vec<&str> = law::all().iter().map(|law| law.name).collect();
    names.push(merge::NAME);
    names.sort_unstable();
    names
}

/// The name of a law, if there is one of that name.
fn known_law(name: &str) -> Option<String> {
    known_laws().contains(&name).then(|| name.to_string())
}

const ABOVE: [(&str, Above); 3] =
    [("none", Above::None), ("first", Above::First), ("all", Above::All)];

const BACKENDS: [(&str, Backend); 4] = [
    ("auto", Backend::Auto),
    ("llvm", Backend::Llvm),
    ("cranelift", Backend::Cranelift),
    ("all", Backend::All),
];

/// A `-C` that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Not `key=value`.
    #[error("found `{0}`, expected key=value")]
    Form(String),
    /// No such key.
    #[error("found the key `{found}`, expected one of {expected}")]
    Key {
        /// As given.
        found: String,
        /// All keys.
        expected: String,
    },
    /// A value that the key does not take.
    #[error("found `{found}` for {key}, expected {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// As given.
        found: String,
        /// What it takes.
        expected: String,
    },
    /// A law that there is none of.
    #[error("found `{found}` for rules, expected -NAME,.. of {expected}")]
    Rule {
        /// As given.
        found: String,
        /// Names of all laws.
        expected: String,
    },
}

impl OptionError {
    /// Every code with what it stands for.
    pub const CODES: &[(&str, &str)] = &[("E0290", "a choice of -C that does not exist")];

    /// The diagnostic's code.
    pub fn code(&self) -> &'static str {
        "E0290"
    }

    /// What to do next.
    pub fn help(&self) -> &'static str {
        "`-C help` lists every key with its values and default"
    }
}

impl Options {
    /// Takes one `key=value`.
    pub fn set(&mut self, text: &str) -> Result<(), OptionError> {
        // A flag alone is a flag that is set.
        let flag = |k: &&Key| k.name == text && k.values.ends_with("false|true");
        let alone = KEYS.iter().find(flag).map(|k| (k.name, "true"));
        let pair = text.split_once('=').or(alone);
        let (key, value) = pair.ok_or_else(|| OptionError::Form(text.into()))?;
        let Some(key) = KEYS.iter().find(|k| k.name == key) else {
            let expected = KEYS.iter().map(|k| k.name).collect::<Vec<_>>().join(", ");
            return Err(OptionError::Key { found: key.into(), expected });
        };
        let found = value.to_string();
        (key.set)(self, value).ok_or_else(|| match key.name {
            RULES => OptionError::Rule { found, expected: known_laws().join(", ") },
            _ => OptionError::Value { key: key.name, found, expected: key.values.into() },
        })
    }

    /// Every key with its present value.
    pub fn values(&self) -> Vec<(String, String)> {
        KEYS.iter().map(|k| (k.name.to_string(), (k.get)(self))).collect()
    }
}

/// The text of `-C help`.
pub fn help() -> String {
    let defaults = Options::default();
    let mut text = String::new();
    for key in KEYS {
        let value = format!("{}={}", key.name, key.values);
        let default = (key.get)(&defaults);
        writeln!(text, "  -C {value:<34} {} [default: {default}]", key.help)
            .expect("writing to a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::format::FORMATS;

    #[test]
    fn every_key_takes_its_own_default() {
        let mut options = Options::default();
        for (key, value) in Options::default().values() {
            assert_eq!(options.set(&format!("{key}={value}")), Ok(()));
        }
        assert_eq!(options, Options::default());
        for key in KEYS.iter().filter(|k| k.values == k.values.to_lowercase()) {
            for word in key.values.split('|') {
                assert_eq!(options.set(&format!("{}={word}", key.name)), Ok(()));
                assert!(options.values().contains(&(key.name.to_string(), word.to_string())));
            }
        }
        assert!(help().contains("-C compute=auto|bf16|f32"));
        let names = FORMATS.iter().map(|format| format!("|{}", format.name));
        assert_eq!(formats!(), format!("stored{}", names.collect::<String>()));
    }

    #[test]
    fn wrong_keys_and_values_are_named() {
        let mut o = Options::default();
        assert!(matches!(o.set("compute"), Err(OptionError::Form(_))));
        assert!(matches!(o.set("comput=f32"), Err(OptionError::Key { .. })));
        assert!(matches!(o.set("compute=f31"), Err(OptionError::Value { .. })));
        assert!(matches!(o.set("rules=-associated"), Err(OptionError::Rule { .. })));
        assert!(matches!(o.set("rules=associate"), Err(OptionError::Rule { .. })));
        assert_eq!((o.set("exact"), o.exact), (Ok(()), true));
        assert!(matches!(o.set("page=0"), Err(OptionError::Value { .. })));
    }
}

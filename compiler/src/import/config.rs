//! Reading config.json: every field that is missing, absurd or at odds with another is reported,
//! all at once.

use super::json::{self, Entries};
use crate::error::{ImportError, ImportErrors};
use ir::dtype::DType;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::Path;

/// Bounds of any width; beyond lies no model, but overflow.
pub const WIDTH: RangeInclusive<i64> = 1..=1 << 20;
/// Bounds of a count of layers, heads or experts.
pub const COUNT: RangeInclusive<i64> = 1..=1 << 14;
/// Bounds of a number of tokens or token ids.
pub const TOKENS: RangeInclusive<i64> = 1..=1 << 26;

/// The fields of a JSON object, with what was wrong so far.
pub struct Fields {
    /// The file they are read from, as diagnostics name it.
    file: &'static str,
    /// Written before each key: where the object lies in the file.
    prefix: String,
    map: Map<String, Value>,
    seen: BTreeSet<String>,
    bad: BTreeSet<String>,
    problems: Vec<ImportError>,
}

impl Fields {
    /// Parses a whole config.json.
    ///
    /// # Errors
    /// [`ImportError::Json`], [`ImportError::Duplicate`].
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Fields, ImportError> {
        let Entries(entries) = json::parse::<Entries<Value>>(path, bytes)?;
        if let Some(key) = json::repeated(&entries) {
            return Err(ImportError::Duplicate { path: path.into(), key: key.into() });
        }
        Ok(Fields::of("", entries.into_iter().collect()))
    }

    /// Parses another file; its name stands before the keys in diagnostics.
    ///
    /// # Errors
    /// [`ImportError::Json`], [`ImportError::Duplicate`].
    pub fn parse_named(
        file: &'static str,
        path: &Path,
        bytes: &[u8],
    ) -> Result<Fields, ImportError> {
        Ok(Fields { file, ..Fields::parse(path, bytes)? })
    }

    fn of(prefix: &str, map: Map<String, Value>) -> Fields {
        let (seen, bad) = (BTreeSet::new(), BTreeSet::new());
        Fields { file: "config.json", prefix: prefix.into(), map, seen, bad, problems: vec![] }
    }

    /// The fields of an object inside this one; `None` where it is absent or null.
    pub fn object(&mut self, key: &str) -> Option<Fields> {
        match self.value(key)?.clone() {
            Value::Object(map) => Some(Fields::of(&format!("{}{key}.", self.prefix), map)),
            _ => {
                self.wrong(key, "an object or null");
                None
            }
        }
    }

    /// Takes over what was wrong with an inner object.
    pub fn absorb(&mut self, inner: Fields) {
        self.problems.extend(inner.problems);
    }

    /// Whether a field is there and not null.
    pub fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|v| !v.is_null())
    }

    /// A required integer; the lower bound where it is bad.
    pub fn int(&mut self, key: &str, range: RangeInclusive<i64>) -> i64 {
        let lo = *range.start();
        if !self.has(key) {
            self.wrong(key, &of_range(&range));
            return lo;
        }
        self.optional_int(key, range).unwrap_or(lo)
    }

    /// An integer, or `default` where it is absent.
    pub fn int_or(&mut self, key: &str, default: i64, range: RangeInclusive<i64>) -> i64 {
        self.optional_int(key, range).unwrap_or(default)
    }

    /// An integer, if there.
    pub fn optional_int(&mut self, key: &str, range: RangeInclusive<i64>) -> Option<i64> {
        let found = integer(self.value(key)?).filter(|v| range.contains(v));
        if found.is_none() {
            self.wrong(key, &of_range(&range));
        }
        found
    }

    /// A finite number above 0 and at most `limit`; `default` where it is absent.
    pub fn positive(&mut self, key: &str, default: Option<f64>, limit: f64) -> f64 {
        let found = match (self.value(key), default) {
            (None, Some(default)) => return default,
            (found, _) => found.and_then(Value::as_f64),
        };
        if let Some(v) = found.filter(|v| *v > 0.0 && *v <= limit) {
            return v;
        }
        self.wrong(key, &format!("a number above 0, at most {limit}"));
        1.0
    }

    /// A number from 0 to `limit`, if there.
    pub fn optional_number(&mut self, key: &str, limit: f64) -> Option<f64> {
        let found = self.value(key)?.as_f64().filter(|v| (0.0..=limit).contains(v));
        if found.is_none() {
            self.wrong(key, &format!("a number from 0 to {limit}"));
        }
        found
    }

    /// True or false, or `default` where it is absent.
    pub fn flag(&mut self, key: &str, default: bool) -> bool {
        match self.value(key) {
            None => default,
            Some(Value::Bool(v)) => *v,
            Some(_) => {
                self.wrong(key, "true or false");
                default
            }
        }
    }

    /// A string, if there.
    pub fn word(&mut self, key: &str) -> Option<String> {
        match self.value(key)? {
            Value::String(v) => Some(v.clone()),
            _ => {
                self.wrong(key, "a string");
                None
            }
        }
    }

    /// A list of strings, empty where it is absent or something else.
    pub fn words(&mut self, key: &str) -> Vec<String> {
        let list = self.value(key).and_then(Value::as_array);
        let words = list.into_iter().flatten().filter_map(Value::as_str);
        words.map(String::from).collect()
    }

    /// One token id, a list of them, or none.
    pub fn token_ids(&mut self, key: &str) -> Vec<u32> {
        let id = |v: &Value| v.as_u64().and_then(|v| u32::try_from(v).ok());
        let ids = match self.value(key) {
            None => return vec![],
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(one) => id(one).map(|id| vec![id]),
        };
        if ids.is_none() {
            self.wrong(key, "a token id or a list of them");
        }
        ids.unwrap_or_default()
    }

    /// A pair of integers, if there.
    pub fn pair(&mut self, key: &str, range: RangeInclusive<i64>) -> Option<[i64; 2]> {
        let list = self.value(key)?.as_array().map(Vec::as_slice);
        let pair = match list {
            Some([a, b]) => integer(a).zip(integer(b)),
            _ => None,
        };
        let pair = pair.filter(|(a, b)| range.contains(a) && range.contains(b));
        if pair.is_none() {
            self.wrong(key, &format!("a pair, each {}", of_range(&range)));
        }
        pair.map(|(a, b)| [a, b])
    }

    /// Marks fields as known whose value does not matter here.
    pub fn ignore(&mut self, keys: &[&str]) {
        self.seen.extend(keys.iter().map(|k| k.to_string()));
    }

    /// Demands that fields which are fine by themselves fit together.
    pub fn relate(&mut self, keys: &[&str], holds: bool, expected: &str) {
        if holds || keys.iter().any(|k| self.bad.contains(*k)) {
            return;
        }
        let shown: Vec<String> = keys[1..]
            .iter()
            .map(|k| format!("{k} = {}", self.map.get(*k).map_or("absent".into(), shorten)))
            .collect();
        let own = self.map.get(keys[0]).map_or("absent".into(), shorten);
        let found = if shown.is_empty() { own } else { format!("{own} with {}", shown.join(", ")) };
        let key = format!("{}{}", self.prefix, keys[0]);
        self.problems.push(ImportError::Config {
            file: self.file,
            key,
            found,
            expected: expected.into(),
        });
    }

    /// Reports a variant that is well formed but not supported.
    pub fn unsupported(&mut self, key: &str, found: impl Display, supported: &str) {
        let (key, found) = (format!("{}{key}", self.prefix), found.to_string());
        self.problems.push(ImportError::Unsupported {
            file: self.file,
            key,
            found,
            supported: supported.into(),
        });
    }

    /// Reports a field's value as wrong.
    pub fn wrong(&mut self, key: &str, expected: &str) {
        if !self.bad.insert(key.into()) {
            return;
        }
        self.problems.push(ImportError::Config {
            file: self.file,
            key: format!("{}{key}", self.prefix),
            found: self.map.get(key).map_or("absent".into(), shorten),
            expected: expected.into(),
        });
    }

    /// Fields that nothing has asked for.
    pub fn unknown(&self) -> Vec<String> {
        let unknown = self.map.keys().filter(|k| !self.seen.contains(*k));
        unknown.map(|k| format!("{}{k}", self.prefix)).collect()
    }

    /// What was wrong, if anything.
    ///
    /// # Errors
    /// Every problem found so far.
    pub fn finish(self) -> Result<(), ImportErrors> {
        ImportErrors(self.problems).into_result()
    }

    fn value(&mut self, key: &str) -> Option<&Value> {
        self.seen.insert(key.into());
        self.map.get(key).filter(|v| !v.is_null())
    }
}

fn of_range(range: &RangeInclusive<i64>) -> String {
    format!("an integer from {} to {}", range.start(), range.end())
}

/// An integer, also where it is written `40.0`.
fn integer(value: &Value) -> Option<i64> {
    let whole = |v: f64| (v.fract() == 0.0 && v.abs() < 9e15).then_some(v as i64);
    value.as_i64().or_else(|| value.as_f64().and_then(whole))
}

/// A value as it is shown in a diagnostic.
fn shorten(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Fields that describe training, libraries or defaults, but never the function.
const WITHOUT_MEANING: [&str; 18] = [
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "auto_map",
    "aux_loss_alpha",
    "ep_size",
    "initializer_range",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "return_dict",
    "router_aux_loss_coef",
    "seq_aux",
    "transformers_version",
    "use_cache",
];

/// What every family's config.json states.
#[derive(Clone, Debug, PartialEq)]
pub struct Common {
    /// Width of the residual stream.
    pub hidden: i64,
    /// Decoder layers.
    pub layers: i64,
    /// Token ids, padding included.
    pub vocab: i64,
    /// Longest sequence.
    pub context: i64,
    /// ε of the norms of the residual stream.
    pub eps: f64,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Tokens that begin a sequence (one or none).
    pub bos: Vec<u32>,
    /// Tokens that end one.
    pub eos: Vec<u32>,
    /// Element type of made-up weights.
    pub dtype: DType,
    /// Rows and columns of the blocks that share a scale, where weights are fp8.
    pub fp8_block: Option<[i64; 2]>,
}

impl Common {
    /// Reads the common fields.
    pub fn read(f: &mut Fields) -> Common {
        f.ignore(&WITHOUT_MEANING);
        let common = Common {
            hidden: f.int("hidden_size", WIDTH),
            layers: f.int("num_hidden_layers", COUNT),
            vocab: f.int("vocab_size", TOKENS),
            context: f.int("max_position_embeddings", TOKENS),
            eps: f.positive("rms_norm_eps", Some(1e-6), 1.0),
            tied: f.flag("tie_word_embeddings", false),
            bos: f.token_ids("bos_token_id"),
            eos: f.token_ids("eos_token_id"),
            dtype: read_dtype(f),
            fp8_block: read_quantization(f),
        };
        if let Some(act) = f.word("hidden_act").filter(|a| a != "silu") {
            f.unsupported("hidden_act", act, "silu");
        }
        let known = |id: &u32| i64::from(*id) < common.vocab;
        f.relate(&["bos_token_id", "vocab_size"], common.bos.iter().all(known), "an id below it");
        f.relate(&["eos_token_id", "vocab_size"], common.eos.iter().all(known), "ids below it");
        common
    }
}

fn read_dtype(f: &mut Fields) -> DType {
    let named = [f.word("torch_dtype"), f.word("dtype")].into_iter().flatten().next();
    match named.as_deref() {
        None | Some("bfloat16") => DType::BF16,
        Some("float16") => DType::F16,
        Some("float32") => DType::F32,
        Some(other) => {
            f.unsupported("torch_dtype", other, "bfloat16, float16 or float32");
            DType::BF16
        }
    }
}

/// DeepSeek's fp8: e4m3 codes with one f32 scale for each block of a matrix.
fn read_quantization(f: &mut Fields) -> Option<[i64; 2]> {
    let mut q = f.object("quantization_config")?;
    let block = match q.word("quant_method").as_deref() {
        Some("fp8") => {
            if let Some(fmt) = q.word("fmt").filter(|fmt| fmt != "e4m3") {
                q.unsupported("fmt", fmt, "e4m3");
            }
            let block = q.pair("weight_block_size", 1..=1 << 16);
            if !q.has("weight_block_size") {
                q.wrong("weight_block_size", "rows and columns of a block, such as [128, 128]");
            }
            block
        }
        Some(other) => {
            q.unsupported("quant_method", other, "fp8");
            None
        }
        None => {
            q.wrong("quant_method", "\"fp8\"");
            None
        }
    };
    f.absorb(q);
    block
}

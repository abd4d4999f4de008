//! Formats that weights are packed in, and the KV cache: what the user may ask for, for which of
//! them.

use ir::dim::Name;
use ir::dtype::{DType, Encoding, Scale};

/// What shares a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Block {
    /// A row of what is summed over.
    Row,
    /// So many elements of it.
    Group(u32),
    /// A square of so many rows and columns.
    Square(u32),
}

/// How elements of a weight, or of the KV cache, are to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Format {
    /// Name in `-C weights=` and `-C kv-dtype=`.
    pub name: &'static str,
    code: DType,
    scale: Option<(DType, Block)>,
}

const fn plain(name: &'static str, code: DType) -> Format {
    Format { name, code, scale: None }
}

const fn scaled(name: &'static str, code: DType, scale: DType, block: Block) -> Format {
    Format { name, code, scale: Some((scale, block)) }
}

/// Elements in bf16.
pub const BF16: Format = plain("bf16", DType::BF16);
/// Elements in f16.
pub const F16: Format = plain("f16", DType::F16);
/// Elements in f32.
pub const F32: Format = plain("f32", DType::F32);
const FP8: Format = scaled("fp8", DType::F8E4M3, DType::F32, Block::Square(128));
const INT8: Format = scaled("int8", DType::I8, DType::F32, Block::Row);
const INT8G32: Format = scaled("int8g32", DType::I8, DType::F16, Block::Group(32));

/// Every format of the KV cache.
pub const CACHED: [Format; 6] = [BF16, F16, F32, FP8, INT8, INT8G32];

/// Every format of weights.
pub const FORMATS: [Format; 9] = [
    BF16,
    F16,
    FP8,
    INT8,
    INT8G32,
    scaled("int4", DType::I4, DType::F16, Block::Group(32)),
    scaled("int4g64", DType::I4, DType::F16, Block::Group(64)),
    scaled("int4e8m0", DType::I4, DType::E8M0, Block::Group(32)),
    scaled("mxfp4", DType::F4E2M1, DType::E8M0, Block::Group(32)),
];

impl Format {
    /// The format of weights of a name.
    pub fn named(name: &str) -> Option<Format> {
        FORMATS.into_iter().find(|format| format.name == name)
    }

    /// The encoding of rows of `depth` elements; `None` where blocks would be cut.
    pub fn encoding(self, depth: i64) -> Option<Encoding> {
        let Some((dtype, block)) = self.scale else { return Some(self.code.into()) };
        let depth = u32::try_from(depth).ok().filter(|depth| depth % 4 == 0 && *depth > 0)?;
        let (rows, cols) = match block {
            Block::Row => (1, depth),
            Block::Group(cols) => (1, Some(cols).filter(|cols| depth % cols == 0)?),
            Block::Square(side) => (side, side),
        };
        Some(Encoding { code: self.code, scale: Some(Scale { dtype, rows, cols, sum: false }) })
    }

    /// The encoding of a row that is written alone, as a token's of the KV cache is: what is for a
    /// square of a matrix is for so much of the row, or all of a shorter one. `None` where blocks
    /// would be cut.
    pub fn of_row(self, width: i64) -> Option<Encoding> {
        let along = |side: u32| match width < i64::from(side) {
            true => Block::Row,
            false => Block::Group(side),
        };
        let scale = self.scale.map(|(dtype, block)| match block {
            Block::Square(side) => (dtype, along(side)),
            _ => (dtype, block),
        });
        Format { scale, ..self }.encoding(width)
    }

    /// Whether elements are codes with scales.
    pub fn has_scales(self) -> bool {
        self.scale.is_some()
    }

    /// The encoding of long rows, whose elements have as many bytes as any others'.
    pub fn typical(self) -> Option<Encoding> {
        self.encoding(1 << 12)
    }

    /// Of two formats the one that keeps more.
    fn finer(self, other: Format) -> Format {
        let bits = |f: Format| (f.code.bits(), f.scale.is_none());
        if bits(other) > bits(self) { other } else { self }
    }
}

/// What a weight is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Matrices of routed experts.
    Experts,
    /// Those of shared ones.
    Shared,
    /// Projections around an attention.
    Attention,
    /// Matrices of a block that all rows go through.
    Mlp,
    /// The matrix that makes logits.
    Head,
}

/// What names of weights of a class have; the first that fits counts.
const CLASSES: [(Class, &[&str]); 5] = [
    (Class::Experts, &[".experts."]),
    (Class::Shared, &[".shared_experts."]),
    (Class::Attention, &[".self_attn."]),
    (Class::Mlp, &[".mlp.gate_proj", ".mlp.up_proj", ".mlp.down_proj"]),
    (Class::Head, &["lm_head", "model.embed_tokens"]),
];

/// How a router's name ends.
const ROUTER: &str = ".mlp.gate";

impl Class {
    /// Of a weight by its name; `None` for norms, biases, routers and whatever else is small, and is
    /// never rounded further.
    pub fn of(name: &str) -> Option<Class> {
        let matrix = name.ends_with("_proj") || name.ends_with("_proj_with_mqa");
        let found = CLASSES.iter().find(|(_, words)| words.iter().any(|w| name.contains(w)));
        found.map(|(class, _)| *class).filter(|class| matrix || *class == Class::Head)
    }
}

/// Formats that are asked for: one for all classes, and others for some.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Formats {
    /// Of all that no other is asked for; `None`: as they are stored.
    pub all: Option<Format>,
    /// Of each class alone, where something is asked for.
    of: [Option<Option<Format>>; CLASSES.len()],
}

impl Formats {
    /// What is asked for of a class alone.
    pub fn of(&self, class: Class) -> Option<Option<Format>> {
        self.of[class as usize]
    }

    /// Asks for a format of a class.
    pub fn set(&mut self, class: Class, format: Option<Option<Format>>) {
        self.of[class as usize] = format;
    }

    /// The format of a constant that is made of these weights: the finest of theirs. `None` where
    /// one of them keeps what it is stored in, as routers do; norms in it are factors.
    pub fn of_weights<'n>(&self, names: impl Iterator<Item = &'n Name>) -> Option<Format> {
        let wanted = names.filter_map(|name| match Class::of(name) {
            Some(class) => Some(self.of(class).unwrap_or(self.all)),
            None => name.ends_with(ROUTER).then_some(None),
        });
        wanted.reduce(|a, b| Some(a?.finer(b?))).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_classes() {
        for (name, class) in [
            ("model.layers.3.mlp.experts.up_proj", Some(Class::Experts)),
            ("model.layers.3.mlp.shared_experts.up_proj", Some(Class::Shared)),
            ("model.layers.3.self_attn.kv_a_proj_with_mqa", Some(Class::Attention)),
            ("model.layers.3.self_attn.kv_a_layernorm", None),
            ("model.layers.3.self_attn.q_proj.bias", None),
            ("model.layers.0.mlp.down_proj", Some(Class::Mlp)),
            ("model.layers.3.mlp.gate", None),
            ("model.layers.3.mlp.gate.e_score_correction_bias", None),
            ("model.norm", None),
            ("lm_head", Some(Class::Head)),
            ("model.embed_tokens", Some(Class::Head)),
        ] {
            assert_eq!(Class::of(name), class, "{name}");
        }
    }

    #[test]
    fn joined_weights_take_the_finest_format() {
        let mut formats = Formats { all: Format::named("int4"), ..Formats::default() };
        let names = ["l.mlp.experts.up_proj", "l.mlp.shared_experts.up_proj"].map(Name::from);
        let of = |f: &Formats| f.of_weights(names.iter()).map(|f| f.name);
        assert_eq!(of(&formats), Some("int4"));
        formats.set(Class::Shared, Some(Format::named("int8")));
        assert_eq!(of(&formats), Some("int8"));
        formats.all = None;
        assert_eq!(of(&formats), None, "routed experts stay as they are");
        assert_eq!(formats.of_weights([Name::from("model.norm")].iter()), None);
        let joined = |other: &str| {
            let names = [other, "l.mlp.shared_experts.up_proj"].map(Name::from);
            formats.of_weights(names.iter()).map(|f| f.name)
        };
        assert_eq!(joined("l.post_attention_layernorm"), Some("int8"));
        assert_eq!(joined("l.mlp.gate"), None, "a router beside it");
    }

    #[test]
    fn blocks_are_whole() {
        let text = |name: &str, depth| {
            let format = Format::named(name).expect("a format");
            format.encoding(depth).map(|e| e.to_string())
        };
        assert_eq!(text("int4", 96).as_deref(), Some("i4<f16 1x32>"));
        assert_eq!(text("int4", 80), None);
        assert_eq!(text("int8", 80).as_deref(), Some("i8<f32 1x80>"));
        assert_eq!(text("int8", 6), None);
        assert_eq!(text("fp8", 200).as_deref(), Some("fp8_e4m3<f32 128x128>"));
        assert_eq!(text("bf16", 3).as_deref(), Some("bf16"));
        let row = |format: Format, width| format.of_row(width).map(|e| e.to_string());
        assert_eq!(row(FP8, 512).as_deref(), Some("fp8_e4m3<f32 1x128>"));
        assert_eq!(row(FP8, 64).as_deref(), Some("fp8_e4m3<f32 1x64>"));
        assert_eq!(row(FP8, 200), None);
        assert_eq!(row(INT8, 512).as_deref(), Some("i8<f32 1x512>"));
        assert_eq!(row(INT8G32, 48), None);
    }
}

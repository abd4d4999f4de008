//! Element types, and encodings: how a tensor's elements are stored.

use std::fmt;
use std::str::FromStr;

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// 1-4-3, no infinities, largest value 448 (OCP FP8, "e4m3fn").
    F8E4M3,
    /// 1-2-1, largest value 6 (OCP FP4).
    F4E2M1,
    /// An exponent alone: 2^(byte - 127); 255 is NaN.
    E8M0,
    /// Two's complement, 32 bits.
    I32,
    /// Two's complement, 8 bits.
    I8,
    /// Unsigned, 8 bits.
    U8,
    /// Two's complement, 4 bits.
    I4,
    /// 0 or 1, one byte.
    Bool,
}

/// What arithmetic an element type takes part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Real numbers.
    Float,
    /// Integers.
    Int,
    /// Truth values.
    Bool,
}

impl DType {
    /// Every element type, in the order of declaration.
    pub const ALL: [DType; 11] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::F8E4M3,
        DType::F4E2M1,
        DType::E8M0,
        DType::I32,
        DType::I8,
        DType::U8,
        DType::I4,
        DType::Bool,
    ];

    /// Width in bits.
    pub fn bits(self) -> u32 {
        match self {
            DType::F32 | DType::I32 => 32,
            DType::F16 | DType::BF16 => 16,
            DType::F8E4M3 | DType::E8M0 | DType::I8 | DType::U8 | DType::Bool => 8,
            DType::F4E2M1 | DType::I4 => 4,
        }
    }

    /// What arithmetic it takes part in.
    pub fn class(self) -> Class {
        match self {
            DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3 | DType::F4E2M1 | DType::E8M0 => {
                Class::Float
            }
            DType::I32 | DType::I8 | DType::U8 | DType::I4 => Class::Int,
            DType::Bool => Class::Bool,
        }
    }

    /// Canonical name in text.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::F8E4M3 => "fp8_e4m3",
            DType::F4E2M1 => "fp4_e2m1",
            DType::E8M0 => "e8m0",
            DType::I32 => "i32",
            DType::I8 => "i8",
            DType::U8 => "u8",
            DType::I4 => "i4",
            DType::Bool => "bool",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        DType::ALL.into_iter().find(|d| d.name() == s).ok_or(())
    }
}

/// One scale for each block of `rows` by `cols` elements of the last two axes (the last axis only,
/// when `rows` is 1). Edge blocks may be partial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scale {
    /// Element type of the scale.
    pub dtype: DType,
    /// Extent of a block along the second to last axis.
    pub rows: u32,
    /// Extent of a block along the last axis.
    pub cols: u32,
    /// Whether the sum of each block's codes is kept beside its scale (i32), so that an integer
    /// product with zero points needs no second pass.
    pub sum: bool,
}

/// How a tensor's elements are stored: codes, and perhaps scales. `value = code * scale`.
///
/// Text: `bf16`, `fp8_e4m3<f32 128x128>`, `i4<f16 1x32>`, `i8<f32 1x32 sum>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Encoding {
    /// Type of a code.
    pub code: DType,
    /// Scales per block, if any.
    pub scale: Option<Scale>,
}

impl Encoding {
    /// Elements stored as they are.
    pub const fn plain(code: DType) -> Self {
        Encoding { code, scale: None }
    }

    /// The element type of a decoded value: the code's own where there is no scale, else `f32`.
    pub fn decoded(self) -> DType {
        if self.scale.is_some() { DType::F32 } else { self.code }
    }

    /// Whether elements are stored as they are.
    pub fn is_plain(self) -> bool {
        self.scale.is_none()
    }
}

impl From<DType> for Encoding {
    fn from(code: DType) -> Self {
        Encoding::plain(code)
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(s) = self.scale {
            write!(f, "<{} {}x{}{}>", s.dtype, s.rows, s.cols, if s.sum { " sum" } else { "" })?;
        }
        Ok(())
    }
}

impl FromStr for Encoding {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        let Some((code, rest)) = s.split_once('<') else { return Ok(Encoding::plain(s.parse()?)) };
        let code = code.trim().parse()?;
        let mut words = rest.strip_suffix('>').ok_or(())?.split_whitespace();
        let dtype = words.next().ok_or(())?.parse()?;
        let (rows, cols) = words.next().and_then(|b| b.split_once('x')).ok_or(())?;
        let rows = rows.parse().ok().filter(|r| *r > 0).ok_or(())?;
        let cols = cols.parse().ok().filter(|c| *c > 0).ok_or(())?;
        let sum = match words.next() {
            None => false,
            Some("sum") => true,
            Some(_) => return Err(()),
        };
        if words.next().is_some() {
            return Err(());
        }
        Ok(Encoding { code, scale: Some(Scale { dtype, rows, cols, sum }) })
    }
}

/// Value of an OCP FP8 e4m3fn code.
pub fn f8e4m3_to_f32(code: u8) -> f32 {
    let sign = if code & 0x80 != 0 { -1.0 } else { 1.0 };
    let (exponent, mantissa) = ((code >> 3) & 15, code & 7);
    match (exponent, mantissa) {
        (15, 7) => f32::NAN,
        (0, m) => sign * m as f32 * 2f32.powi(-9),
        (e, m) => sign * (8 + m) as f32 * 2f32.powi(e as i32 - 10),
    }
}

/// Value of an OCP FP4 e2m1 code (the lower four bits).
pub fn f4e2m1_to_f32(code: u8) -> f32 {
    const MAGNITUDE: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let magnitude = MAGNITUDE[(code & 7) as usize];
    if code & 8 != 0 { -magnitude } else { magnitude }
}

/// Value of an e8m0 code.
pub fn e8m0_to_f32(code: u8) -> f32 {
    match code {
        255 => f32::NAN,
        0 => f32::from_bits(1 << 22),
        e => f32::from_bits((e as u32) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for d in DType::ALL {
            assert_eq!(d.name().parse(), Ok(d));
        }
        for text in ["bf16", "fp8_e4m3<f32 128x128>", "i4<f16 1x32>", "i8<f32 1x32 sum>"] {
            let e: Encoding = text.parse().expect("a canonical encoding");
            assert_eq!(e.to_string(), text);
        }
        for text in ["", "f33", "i4<f16>", "i4<f16 0x32>", "i4<f16 1x32", "i4<f16 1x32 sum x>"] {
            assert_eq!(text.parse::<Encoding>(), Err(()));
        }
    }

    #[test]
    fn small_floats_decode() {
        assert_eq!(f8e4m3_to_f32(0x7e), 448.0);
        assert_eq!(f8e4m3_to_f32(0x01), 2f32.powi(-9));
        assert_eq!(f8e4m3_to_f32(0x38), 1.0);
        assert_eq!(f8e4m3_to_f32(0xb8), -1.0);
        assert!(f8e4m3_to_f32(0x7f).is_nan());
        assert_eq!(f4e2m1_to_f32(15), -6.0);
        assert_eq!(e8m0_to_f32(127), 1.0);
        assert_eq!(e8m0_to_f32(0), 2f32.powi(-127));
    }
}

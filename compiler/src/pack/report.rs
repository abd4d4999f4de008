//! What formats did to the weights of a model, in words.

use super::Packed;
use super::format::Formats;
use super::rounding::Rounding;
use ir::dtype::Encoding;
use std::collections::BTreeMap;
use std::fmt;

/// A weight that was rounded to codes with scales.
#[derive(Clone, Debug, PartialEq)]
pub struct Rounded {
    /// What it is made from.
    pub name: String,
    /// Its encoding.
    pub encoding: Encoding,
    /// What that did.
    pub rounding: Rounding,
}

/// Weights by what became of them; a line for each encoding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    rounded: BTreeMap<Encoding, Vec<Rounded>>,
    /// Weights that are not in the format asked for, by its name.
    kept: BTreeMap<&'static str, Vec<String>>,
}

impl Report {
    /// Of weights that were rounded; and of all, which may have kept what they are stored in.
    pub fn new(rounded: Vec<Rounded>, all: &[Packed], formats: &Formats) -> Report {
        let mut report = Report::default();
        for one in rounded {
            report.rounded.entry(one.encoding).or_default().push(one);
        }
        // Of what no product reads nothing is asked for.
        for packed in all.iter().filter(|packed| packed.packing.is_some()) {
            let asked = formats.of_weights(packed.from.weights().into_iter());
            let depth = packed.from.dims.last().copied().unwrap_or(1);
            if let Some(format) = asked.filter(|f| f.encoding(depth) != Some(packed.encoding)) {
                let kept = format!("{} as {}", packed.name(), packed.encoding);
                report.kept.entry(format.name).or_default().push(kept);
            }
        }
        report
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (encoding, all) in &self.rounded {
            let mut sum = Rounding::default();
            all.iter().for_each(|one| sum += one.rounding);
            let percent = |r: &Rounding| 100.0 * r.relative();
            let by_error = |a: &&Rounded, b: &&Rounded| {
                a.rounding.relative().total_cmp(&b.rounding.relative())
            };
            write!(f, "{} weights as {encoding}: rounded by {:.2} %", all.len(), percent(&sum))?;
            if let Some(most) = all.iter().max_by(by_error) {
                write!(f, ", most {} by {:.2} %", most.name, percent(&most.rounding))?;
            }
            match sum.saturated {
                0 => writeln!(f)?,
                n => writeln!(f, "; {n} numbers are beyond what their scale reaches")?,
            }
        }
        for (format, all) in &self.kept {
            let first = all.first().map_or("", |name| name);
            let rows = "rows are not of whole blocks";
            writeln!(f, "{} weights not as {format}, whose {rows}: {first}, ..", all.len())?;
        }
        Ok(())
    }
}

//! What comparisons with goldens amount to, and how they are shown.

use super::Streams;
use super::bounds::{Bounds, median};
use super::goldens::Comparison;
use crate::error::{GenerateError, Result};
use serde_json::{Value, json};

/// Everything that was compared.
#[derive(Clone, Debug)]
pub struct Compared {
    /// What it was compared by.
    pub bounds: Bounds,
    /// One for each prompt.
    pub prompts: Vec<Comparison>,
}

impl Compared {
    /// Median over prompts of the median error of their positions: one token with other experts
    /// touches the rest of its prompt, and no other prompt.
    fn median(&self) -> f64 {
        median(self.prompts.iter().map(|c| c.median_relative_error)).unwrap_or(0.0)
    }

    /// Median of all positions of all prompts.
    fn median_of_rows(&self) -> f64 {
        median(self.prompts.iter().flat_map(|c| c.relative_errors.iter().copied())).unwrap_or(0.0)
    }

    fn worst(&self) -> Option<&Comparison> {
        let by = |a: &&Comparison, b: &&Comparison| {
            a.max_relative_error.total_cmp(&b.max_relative_error)
        };
        self.prompts.iter().max_by(by)
    }

    /// The first row that is beyond the bounds and not excused: its prompt's place among all, its
    /// position and its error.
    pub fn first_beyond(&self) -> Option<(usize, usize, f64)> {
        self.prompts.iter().enumerate().find_map(|(at, c)| {
            let rows = (c.first_position..).zip(&c.relative_errors);
            let mut beyond = rows.filter(|(_, error)| **error > self.bounds.row);
            let (position, error) = beyond.find(|(row, _)| !c.excused_positions.contains(row))?;
            Some((at, position, *error))
        })
    }

    /// Nothing, or what is beyond the bounds.
    ///
    /// # Errors
    /// [`GenerateError::GoldensDiffer`], [`GenerateError::GoldensMedian`].
    pub fn verdict(&self) -> Result<()> {
        let failed = self.prompts.iter().filter(|c| !c.ok).count();
        let (prompts, median) = (self.prompts.len(), self.median());
        if failed > 0 {
            return Err(GenerateError::GoldensDiffer {
                failed,
                prompts,
                tolerance: self.bounds.row,
            });
        }
        if median > self.bounds.median {
            return Err(GenerateError::GoldensMedian { median, expected: self.bounds.median });
        }
        Ok(())
    }

    /// One JSON object: `{precision, tolerance, median_tolerance, gap, ok, median,
    /// median_of_rows, worst: {prompt, position, relative_error}, prompts}`, where `gap` is what
    /// the precision may close in a router's scores, and prompts are [`Comparison`]s.
    pub fn object(&self) -> Value {
        let worst = self.worst().map(|c| {
            let (prompt, error) = (c.index, c.max_relative_error);
            json!({"prompt": prompt, "position": c.worst_position, "relative_error": error})
        });
        json!({
            "precision": self.bounds.precision,
            "tolerance": self.bounds.row,
            "median_tolerance": self.bounds.median,
            "gap": self.bounds.gap,
            "ok": self.verdict().is_ok(),
            "median": self.median(),
            "median_of_rows": self.median_of_rows(),
            "worst": worst,
            "prompts": self.prompts,
        })
    }

    /// Prints a table and what it amounts to.
    ///
    /// # Errors
    /// As [`Streams::say`].
    pub fn print(&self, streams: &mut Streams<'_>) -> Result<()> {
        let heads = ["prompt", "rows", "median", "max error", "greedy"];
        let [a, b, c, d, e] = heads;
        streams.say(&format!("{a:>6}  {b:>4}  {c:>8}  {d:>9}  {e:>7}\n"))?;
        for c in &self.prompts {
            streams.say(&self.line(c))?;
        }
        let Bounds { precision, row, median, .. } = self.bounds;
        streams.say(&format!(
            "{precision}: median {:.2e} (at most {median:.0e}; of all rows {:.2e}), rows at most \
             {row:.0e}\n",
            self.median(),
            self.median_of_rows(),
        ))?;
        if let Some(worst) = self.worst() {
            let (prompt, position) = (worst.index, worst.worst_position);
            let error = worst.max_relative_error;
            let text = format!("worst {error:.2e}: prompt {prompt}, position {position}\n");
            streams.say(&text)?;
        }
        if self.prompts.iter().any(|c| c.is_excused()) {
            streams.say(&format!(
                "excused: the prompt has a choice of experts closer than {:.1e}, which \
                 {precision} may turn, and with it that row and those behind\n",
                self.bounds.gap
            ))?;
        }
        Ok(())
    }

    fn line(&self, c: &Comparison) -> String {
        let mut line = format!(
            "{:>6}  {:>4}  {:>8.2e}  {:>9.2e}  {:>7}  {}{}",
            c.index,
            c.relative_errors.len(),
            c.median_relative_error,
            c.max_relative_error,
            format!("{}/{}", c.greedy_equal, c.greedy_tokens),
            if c.ok { "" } else { "DIFFERS: " },
            c.name,
        );
        if !c.excused_positions.is_empty() {
            line += &format!("; excused positions {}", ranges(&c.excused_positions));
        }
        if c.greedy_excused {
            line += &format!("; excused greedy tokens from {}", c.greedy_equal);
        }
        if c.is_excused() {
            line += &c.gap.map_or(String::new(), |gap| format!(" (gap {gap:.1e})"));
        }
        line + "\n"
    }
}

/// Rising numbers as text: `1-3, 7`.
fn ranges(numbers: &[usize]) -> String {
    let parts = numbers.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [one] => one.to_string(),
        run => format!("{}-{}", run[0], run[run.len() - 1]),
    });
    parts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_short() {
        assert_eq!(ranges(&[]), "");
        assert_eq!(ranges(&[4]), "4");
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2, 5, 7-8");
    }
}

//! How well a model predicts a text.

use crate::engine::Engine;
use crate::error::{GenerateError, Result};
use crate::logits::{Feed, Rows, every_position};

/// A text as a model is asked about it: windows that do not overlap, each after the same prefix.
///
/// Every token is predicted from those before it in its window; the first of a window only where
/// there is a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    all: Vec<Vec<i32>>,
    /// Position of the first token of a window that is predicted.
    first: usize,
}

impl Windows {
    /// Windows of `length` tokens at most, prefix included; `None` where none would be predicted.
    pub fn new(prefix: &[i32], tokens: &[i32], length: usize) -> Option<Windows> {
        let own = length.checked_sub(prefix.len()).filter(|own| *own > 0)?;
        let all: Vec<_> = tokens.chunks(own).map(|window| [prefix, window].concat()).collect();
        let windows = Windows { all, first: prefix.len().max(1) };
        (windows.predicted() > 0).then_some(windows)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Tokens of the longest.
    pub fn length(&self) -> usize {
        self.all.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Tokens of all.
    pub fn fed(&self) -> usize {
        self.all.iter().map(Vec::len).sum()
    }

    /// Tokens that are predicted.
    pub fn predicted(&self) -> usize {
        self.all.iter().map(|window| window.len().saturating_sub(self.first)).sum()
    }
}

/// What a model thinks of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Tokens predicted.
    pub tokens: usize,
    /// Sum of their negative log-likelihoods, in nats.
    sum: f64,
    /// Sum of the squares.
    squares: f64,
}

impl Score {
    /// Mean negative log-likelihood of a token, in nats.
    pub fn mean(&self) -> f64 {
        self.sum / self.tokens.max(1) as f64
    }

    /// Standard error of the mean, as if tokens were independent.
    pub fn error(&self) -> f64 {
        let n = self.tokens as f64;
        if n < 2.0 {
            return f64::INFINITY;
        }
        let variance = (self.squares - self.sum * self.sum / n) / (n - 1.0);
        (variance.max(0.0) / n).sqrt()
    }

    /// The exponential of the mean.
    pub fn perplexity(&self) -> f64 {
        self.mean().exp()
    }

    fn add(&mut self, nats: f64) {
        self.tokens += 1;
        self.sum += nats;
        self.squares += nats * nats;
    }
}

/// Scores windows, in steps of at most `chunk` tokens; calls `done` with the number of tokens that
/// were fed.
///
/// # Errors
/// Ids that the model lacks, windows beyond its context, logits that are no numbers
/// ([`GenerateError::BadLogit`]), and what the engine reports.
pub fn score<E: Engine>(
    engine: &mut E,
    windows: &Windows,
    chunk: usize,
    done: &mut dyn FnMut(usize),
) -> Result<Score> {
    let vocab = engine.vocab();
    let mut score = Score::default();
    every_position(engine, &windows.all, Feed::Chunked(chunk), &mut |rows, block| {
        let Rows { prompt, position } = rows;
        let window = &windows.all[prompt];
        for (i, row) in block.chunks_exact(vocab).enumerate() {
            let position = position + i + 1;
            if let Some(id) = window.get(position).filter(|_| position >= windows.first) {
                score.add(surprise(row, *id as usize, position)?);
            }
        }
        done(block.len() / vocab);
        Ok(())
    })?;
    Ok(score)
}

/// Negative logarithm of the probability of token `id`, in nats.
fn surprise(logits: &[f32], id: usize, position: usize) -> Result<f64> {
    if let Some(id) = logits.iter().position(|v| !v.is_finite()) {
        return Err(GenerateError::BadLogit { id, position, value: logits[id] });
    }
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|v| (f64::from(*v) - most).exp()).sum();
    Ok(most + sum.ln() - f64::from(logits[id]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_share_a_prefix_and_no_token() {
        let tokens: Vec<i32> = (10..17).collect();
        let windows = Windows::new(&[1], &tokens, 4).expect("tokens to predict");
        assert_eq!(windows.all, [vec![1, 10, 11, 12], vec![1, 13, 14, 15], vec![1, 16]]);
        assert_eq!((windows.predicted(), windows.length()), (7, 4));
        let windows = Windows::new(&[], &tokens, 3).expect("tokens to predict");
        assert_eq!((windows.count(), windows.predicted()), (3, 4));
        assert_eq!(Windows::new(&[], &tokens[..1], 3), None);
        assert_eq!(Windows::new(&[], &tokens, 1), None);
        assert_eq!(Windows::new(&[1, 2], &tokens, 2), None);
        assert_eq!(Windows::new(&[1, 2], &[], 3), None);
    }

    #[test]
    fn likelihoods_are_of_a_softmax() {
        let row = [1.0f32, 3.0, -2.0];
        let total: f64 = row.iter().map(|v| f64::from(*v).exp()).sum();
        for (id, v) in row.iter().enumerate() {
            let expected = -(f64::from(*v).exp() / total).ln();
            assert!((surprise(&row, id, 0).expect("numbers") - expected).abs() < 1e-12);
        }
        // Neither overflow nor a logarithm of 0.
        let far = surprise(&[3e38, -3e38], 1, 0).expect("numbers");
        assert!((far / 6e38 - 1.0).abs() < 1e-6, "{far}");
        let error = surprise(&[0.0, f32::NAN], 0, 7).expect_err("no number");
        assert_eq!(error.code(), "E0608");
    }

    #[test]
    fn errors_are_those_of_a_mean() {
        let mut score = Score::default();
        assert_eq!(score.error(), f64::INFINITY);
        [1.0, 2.0, 3.0].into_iter().for_each(|nats| score.add(nats));
        assert_eq!(score.mean(), 2.0);
        assert!((score.perplexity() - 2f64.exp()).abs() < 1e-12);
        assert!((score.error() - (1.0f64 / 3.0).sqrt()).abs() < 1e-12);
    }
}

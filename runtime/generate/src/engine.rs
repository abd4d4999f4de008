//! What generation needs of a model that can be stepped.

use crate::error::{GenerateError, Result};

/// Which of a sequence's new tokens want logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// None of them: more of the prompt follows.
    None,
    /// The last one.
    Last,
    /// All of them.
    All,
}

impl Want {
    /// Number of logit rows for `tokens` new tokens.
    pub fn rows(self, tokens: usize) -> usize {
        match self {
            Want::None => 0,
            Want::Last => 1.min(tokens),
            Want::All => tokens,
        }
    }
}

/// One sequence's part in a step.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// New tokens, at positions `past..past + tokens.len()`; at least one.
    pub tokens: &'a [i32],
    /// Tokens whose states are in the pages already.
    pub past: usize,
    /// Pages that hold the sequence's states, in order; enough for `past + tokens.len()` rows.
    pub pages: &'a [u32],
    /// Which of the new tokens want logits.
    pub want: Want,
}

/// A model with paged states.
pub trait Engine {
    /// Number of token ids.
    fn vocab(&self) -> usize;

    /// Most tokens of one sequence.
    fn context(&self) -> usize;

    /// State rows in a page.
    fn page_tokens(&self) -> usize;

    /// Number of pages; their numbers are `0..pages_total()`.
    fn pages_total(&self) -> usize;

    /// Whether a sequence may be cut back to fewer tokens and continued from there.
    fn rewinds(&self) -> bool {
        true
    }

    /// Runs the new tokens of several sequences. The result has one row of [`Engine::vocab`]
    /// logits for each wanted token, sequence by sequence.
    ///
    /// # Errors
    /// [`GenerateError::Engine`] if the step cannot be run.
    fn step(&mut self, parts: &[Part<'_>]) -> Result<&[f32]>;
}

impl<E: Engine + ?Sized> Engine for &mut E {
    fn vocab(&self) -> usize {
        (**self).vocab()
    }

    fn context(&self) -> usize {
        (**self).context()
    }

    fn page_tokens(&self) -> usize {
        (**self).page_tokens()
    }

    fn pages_total(&self) -> usize {
        (**self).pages_total()
    }

    fn rewinds(&self) -> bool {
        (**self).rewinds()
    }

    fn step(&mut self, parts: &[Part<'_>]) -> Result<&[f32]> {
        (**self).step(parts)
    }
}

/// Steps the engine and checks the shape of its answer.
pub(crate) fn checked_step<'e, E: Engine>(
    engine: &'e mut E,
    parts: &[Part<'_>],
) -> Result<&'e [f32]> {
    let vocab = engine.vocab();
    let rows: usize = parts.iter().map(|p| p.want.rows(p.tokens.len())).sum();
    let logits = engine.step(parts)?;
    if rows.checked_mul(vocab) != Some(logits.len()) {
        return Err(GenerateError::LogitsShape { found: logits.len(), rows, vocab });
    }
    Ok(logits)
}

/// Checks that a prompt can be fed to the engine at all.
///
/// # Errors
/// [`GenerateError::TokenOutOfRange`], [`GenerateError::PromptTooLong`] or
/// [`GenerateError::TooFewPages`].
pub(crate) fn check_prompt<E: Engine>(engine: &E, prompt: &[i32]) -> Result<()> {
    let (vocab, context) = (engine.vocab(), engine.context());
    let outside = |id: &i32| usize::try_from(*id).map_or(true, |id| id >= vocab);
    if let Some(position) = prompt.iter().position(outside) {
        let id = i64::from(prompt[position]);
        return Err(GenerateError::TokenOutOfRange { id, position, vocab });
    }
    if prompt.len() > context {
        return Err(GenerateError::PromptTooLong { tokens: prompt.len(), context });
    }
    let (needed, total) = (prompt.len().div_ceil(engine.page_tokens()), engine.pages_total());
    if needed > total {
        return Err(GenerateError::TooFewPages { needed, total });
    }
    Ok(())
}

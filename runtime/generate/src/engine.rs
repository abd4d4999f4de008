//! What generation needs of a model that can be stepped, and how a session of the runtime gives
//! it.

use crate::error::{GenerateError, Result};
use runtime::{Batch, Session};
use std::sync::Arc;

pub use runtime::{LoadOptions, Model, Sequence as Part, Want};

/// Number of logit rows for `tokens` new tokens.
fn rows(want: Want, tokens: usize) -> usize {
    match want {
        Want::None => 0,
        Want::Last => 1.min(tokens),
        Want::All => tokens,
    }
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
    /// [`GenerateError::Runtime`] if the step cannot be run.
    fn step(&mut self, parts: &[Part<'_>]) -> Result<&[f32]>;
}

/// A session of a compiled model.
#[derive(Debug)]
pub struct ModelEngine {
    session: Session,
    context: usize,
}

impl ModelEngine {
    /// A session with room for the states of `tokens` tokens, all sequences together, and at most
    /// so many in one sequence.
    ///
    /// # Errors
    /// [`GenerateError::Runtime`]: memory or threads are refused.
    pub fn new(model: &Arc<Model>, tokens: usize) -> Result<Self> {
        let limit = usize::try_from(model.manifest().model.context_length).unwrap_or(usize::MAX);
        let states = &model.plan().states;
        // A model without states still numbers its rows.
        let page_tokens = states.first().map_or(64, |state| state.page_tokens.max(1) as usize);
        let session = Session::new(Arc::clone(model), tokens.max(1).div_ceil(page_tokens))?;
        Ok(ModelEngine { session, context: limit.min(tokens) })
    }

    /// The session, to measure with.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }
}

impl Engine for ModelEngine {
    fn vocab(&self) -> usize {
        self.session.model().manifest().model.vocab_size as usize
    }

    fn context(&self) -> usize {
        self.context
    }

    fn page_tokens(&self) -> usize {
        self.session.states().page_tokens()
    }

    fn pages_total(&self) -> usize {
        self.session.states().capacity()
    }

    fn step(&mut self, parts: &[Part<'_>]) -> Result<&[f32]> {
        Ok(self.session.step(&Batch { sequences: parts })?)
    }
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
    let rows: usize = parts.iter().map(|p| rows(p.want, p.tokens.len())).sum();
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a row of logits too few.
    struct Short;

    impl Engine for Short {
        fn vocab(&self) -> usize {
            3
        }

        fn context(&self) -> usize {
            8
        }

        fn page_tokens(&self) -> usize {
            4
        }

        fn pages_total(&self) -> usize {
            2
        }

        fn step(&mut self, _parts: &[Part<'_>]) -> Result<&[f32]> {
            Ok(&[0.0; 3])
        }
    }

    #[test]
    fn answers_of_another_shape_are_refused() {
        let step = |want| {
            let part = Part { tokens: &[1, 2], past: 0, pages: &[0], want };
            checked_step(&mut Short, &[part]).map(<[f32]>::len).map_err(|e| e.code())
        };
        assert_eq!(step(Want::Last), Ok(3));
        assert_eq!(step(Want::All), Err("E0608"));
    }
}

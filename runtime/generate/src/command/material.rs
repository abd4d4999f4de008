//! What an artifact holds beside the network: tokenizer, template, recommended sampling.

use super::args::SamplingArgs;
use crate::chat::ChatTemplate;
use crate::error::{GenerateError, Result};
use crate::sample::Sampling;
use crate::tokenize::Tokenizer;
use runtime::Model;
use std::sync::Arc;

/// Sampling that a checkpoint recommends; `None` where it is silent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Recommended {
    /// Whether to sample at all; silence means no, as in Hugging Face transformers.
    pub do_sample: Option<bool>,
    /// Divisor of the logits.
    pub temperature: Option<f64>,
    /// Mass of the nucleus.
    pub top_p: Option<f64>,
    /// Number of candidates.
    pub top_k: Option<u32>,
}

impl Recommended {
    /// The user's options, and for those left out what is recommended.
    pub fn with(&self, args: &SamplingArgs) -> Sampling {
        let narrow = |value: f64| value as f32;
        let temperature = match self.do_sample {
            Some(true) => self.temperature.map_or(1.0, narrow),
            _ => 0.0,
        };
        Sampling {
            temperature: args.temperature.unwrap_or(temperature),
            top_k: args.top_k.unwrap_or(self.top_k.unwrap_or(0) as usize),
            top_p: args.top_p.unwrap_or(self.top_p.map_or(1.0, narrow)),
            min_p: args.min_p.unwrap_or(0.0),
            seed: args.seed,
        }
    }
}

/// Files of the checkpoint as the artifact carries them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files<'a> {
    /// `tokenizer.json`.
    pub tokenizer: Option<&'a [u8]>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `chat_template.jinja`.
    pub chat_template: Option<&'a [u8]>,
}

/// What is needed to go from text to text.
pub struct Material {
    tokenizer: Option<Arc<Tokenizer>>,
    template: Result<ChatTemplate>,
    stop: Vec<i32>,
    /// Recommended sampling.
    pub recommended: Recommended,
}

impl Material {
    /// Reads what the model's artifact holds.
    ///
    /// # Errors
    /// As [`Material::new`].
    pub fn of(model: &Model) -> Result<Self> {
        let manifest = model.manifest();
        let files = Files {
            tokenizer: model.section("tokenizer"),
            tokenizer_config: model.section("tokenizer_config"),
            chat_template: model.section("chat_template"),
        };
        let ids = |list: &[u32]| -> Vec<i32> {
            list.iter().filter_map(|id| i32::try_from(*id).ok()).collect()
        };
        let given = &manifest.generation;
        let recommended = Recommended {
            do_sample: given.do_sample,
            temperature: given.temperature,
            top_p: given.top_p,
            top_k: given.top_k,
        };
        Self::new(files, &ids(&given.eos), &ids(&manifest.model.eos), recommended)
    }

    /// Reads the files. `generation_eos` are the end-of-sequence ids that the generation
    /// configuration names, `model_eos` those of the model's own configuration: published ones
    /// disagree, and the latter are often wrong, so they count only where nothing else is known.
    ///
    /// # Errors
    /// [`GenerateError::BadTokenizer`]; a missing tokenizer or template is none, until it is
    /// asked for.
    pub fn new(
        files: Files<'_>,
        generation_eos: &[i32],
        model_eos: &[i32],
        recommended: Recommended,
    ) -> Result<Self> {
        let tokenizer = files
            .tokenizer
            .map(|json| Tokenizer::from_json(json, files.tokenizer_config))
            .transpose()?
            .map(Arc::new);
        let template = ChatTemplate::from_config(files.tokenizer_config, files.chat_template);
        let mut stop = generation_eos.to_vec();
        stop.extend(tokenizer.as_ref().and_then(|t| t.eos()));
        if stop.is_empty() {
            stop.extend(model_eos);
        }
        stop.sort_unstable();
        stop.dedup();
        Ok(Material { tokenizer, template, stop, recommended })
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`GenerateError::NoTokenizer`].
    pub fn tokenizer(&self) -> Result<&Arc<Tokenizer>> {
        self.tokenizer.as_ref().ok_or(GenerateError::NoTokenizer { section: "tokenizer" })
    }

    /// The chat template.
    ///
    /// # Errors
    /// [`GenerateError::NoChatTemplate`], or why the template cannot be used.
    pub fn template(self) -> Result<ChatTemplate> {
        self.template
    }

    /// Ids that end a sequence.
    pub fn stop(&self) -> &[i32] {
        &self.stop
    }
}

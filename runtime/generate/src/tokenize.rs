//! Text to token ids and back.
//!
//! Special tokens are found by their strings: their ids move between generations of a model.

use crate::error::{GenerateError, Result};
use serde::Deserialize;
use serde_json::Value;
use std::cell::Cell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;
use tokenizers::DecoderWrapper;

/// Whether a prompt begins with what the tokenizer puts before a document (BOS, mostly).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bos {
    /// Put it there unless the text already begins with it.
    Add,
    /// Take the text as it is: chat templates spell the token out.
    AsWritten,
}

/// A token named in `tokenizer_config.json`: a string or an added-token object.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum TokenName {
    Plain(String),
    Object { content: String },
}

impl TokenName {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            TokenName::Plain(content) | TokenName::Object { content } => content,
        }
    }
}

/// The keys of `tokenizer_config.json` that encoding depends on.
#[derive(Clone, Debug, Default, Deserialize)]
struct Config {
    add_bos_token: Option<bool>,
    bos_token: Option<TokenName>,
    eos_token: Option<TokenName>,
}

/// A token that stands outside the merges.
#[derive(Clone, Debug)]
struct Added {
    content: String,
    special: bool,
}

/// Encodes and decodes as `tokenizer.json` and `tokenizer_config.json` say.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    added: HashMap<u32, Added>,
    prefix: Vec<i32>,
    bos: Option<i32>,
    eos: Option<i32>,
    byte_level: Option<HashMap<char, u8>>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and, if there is one, `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`GenerateError::BadTokenizer`] if either cannot be parsed.
    pub fn from_json(tokenizer: &[u8], config: Option<&[u8]>) -> Result<Self> {
        let bad = |detail| GenerateError::BadTokenizer { file: "tokenizer.json", detail };
        let json: Value = serde_json::from_slice(tokenizer).map_err(|e| bad(e.to_string()))?;
        templates_are_sound(&json).map_err(bad)?;
        let inner = guarded(|| tokenizers::Tokenizer::from_bytes(tokenizer));
        let inner = inner.map_err(bad)?.map_err(|e| bad(e.to_string()))?;
        let config: Config = match config {
            None => Config::default(),
            Some(bytes) => serde_json::from_slice(bytes).map_err(|e| {
                GenerateError::BadTokenizer { file: "tokenizer_config.json", detail: e.to_string() }
            })?,
        };
        let id = |name: &Option<TokenName>| {
            name.as_ref().and_then(|n| inner.token_to_id(n.as_str())).and_then(to_i32)
        };
        let (bos, eos) = (id(&config.bos_token), id(&config.eos_token));
        let added = inner
            .get_added_tokens_decoder()
            .into_iter()
            .map(|(id, t)| (id, Added { content: t.content, special: t.special }))
            .collect();
        let byte_level = matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)))
            .then(byte_level_alphabet);
        let mut this = Tokenizer { inner, added, prefix: Vec::new(), bos, eos, byte_level };
        this.prefix = this.document_prefix(config.add_bos_token)?;
        Ok(this)
    }

    /// What the post-processor puts before a text, with `add_bos_token` having the last word.
    fn document_prefix(&self, add_bos: Option<bool>) -> Result<Vec<i32>> {
        let plain = self.raw("a", false)?;
        let full = self.raw("a", true)?;
        let at = full.windows(plain.len().max(1)).position(|w| w == plain).unwrap_or(0);
        let mut prefix = full[..at].to_vec();
        if let (Some(bos), Some(wanted)) = (self.bos, add_bos) {
            prefix.retain(|&id| id != bos);
            if wanted {
                prefix.insert(0, bos);
            }
        }
        Ok(prefix)
    }

    /// What is put before a document.
    pub fn prefix(&self) -> &[i32] {
        &self.prefix
    }

    fn raw(&self, text: &str, special: bool) -> Result<Vec<i32>> {
        let refused = |detail| GenerateError::Encode { detail };
        let encoding = guarded(|| self.inner.encode_fast(text, special)).map_err(refused)?;
        let encoding = encoding.map_err(|e| refused(e.to_string()))?;
        encoding
            .get_ids()
            .iter()
            .map(|&id| {
                to_i32(id).ok_or_else(|| GenerateError::Encode {
                    detail: format!("token id {id} does not fit in 31 bits"),
                })
            })
            .collect()
    }

    /// Token ids of `text`. Special tokens written out in the text become their ids. A text that
    /// already begins with the tokens that [`Bos::Add`] adds does not get them twice.
    ///
    /// # Errors
    /// [`GenerateError::Encode`] if the tokenizer refuses the text.
    pub fn encode(&self, text: &str, bos: Bos) -> Result<Vec<i32>> {
        let ids = self.raw(text, false)?;
        if bos == Bos::AsWritten || self.prefix.is_empty() || ids.starts_with(&self.prefix) {
            return Ok(ids);
        }
        let written = self.bos.is_some() && ids.first().copied() == self.bos;
        let mut out = self.prefix.clone();
        let skip = usize::from(written && out.first() == ids.first());
        out.extend_from_slice(&ids[skip..]);
        Ok(out)
    }

    /// The text of `ids`; bytes that are not UTF-8 become U+FFFD. Ids that the tokenizer does not
    /// define have no text.
    ///
    /// # Errors
    /// [`GenerateError::Decode`] if the tokenizer refuses the tokens.
    pub fn decode(&self, ids: &[i32], specials: Specials) -> Result<String> {
        let mut stream = TextStream::new(specials);
        let mut text = String::new();
        for &id in ids {
            text.push_str(&stream.push(self, id)?);
        }
        text.push_str(&stream.finish(self)?);
        Ok(text)
    }

    /// Id of the token written `token`.
    pub fn id_of(&self, token: &str) -> Option<i32> {
        self.inner.token_to_id(token).and_then(to_i32)
    }

    /// Beginning-of-sequence id.
    pub fn bos(&self) -> Option<i32> {
        self.bos
    }

    /// End-of-sequence id.
    pub fn eos(&self) -> Option<i32> {
        self.eos
    }

    /// For each of the model's `vocab` ids, whether the tokenizer defines it. Published
    /// vocabularies are padded; the rows beyond have no text and must not be sampled.
    pub fn defined(&self, vocab: usize) -> Vec<bool> {
        (0..vocab)
            .map(|id| u32::try_from(id).is_ok_and(|id| self.inner.id_to_token(id).is_some()))
            .collect()
    }

    /// Whether `id` is a control token without text of its own.
    pub fn is_special(&self, id: i32) -> bool {
        u32::try_from(id).ok().and_then(|id| self.added.get(&id)).is_some_and(|t| t.special)
    }

    /// Bytes of one token of a byte-level vocabulary; `None` if the vocabulary is of another kind.
    fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let alphabet = self.byte_level.as_ref()?;
        if let Some(added) = self.added.get(&id) {
            return Some(added.content.as_bytes().to_vec());
        }
        let token = self.inner.id_to_token(id).unwrap_or_default();
        let bytes: Option<Vec<u8>> = token.chars().map(|c| alphabet.get(&c).copied()).collect();
        Some(bytes.unwrap_or_else(|| token.into_bytes()))
    }
}

/// Runs code of the tokenizer library, which panics on some files that it should refuse. Its panics
/// are told as errors, and not by the process' hook as well.
fn guarded<T>(work: impl FnOnce() -> T) -> std::result::Result<T, String> {
    thread_local!(static GUARDED: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let tell = take_hook();
        set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                tell(panic);
            }
        }));
    });
    GUARDED.set(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(false);
    done.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        format!("the tokenizer library gave up: {}", text.unwrap_or_default())
    })
}

/// Whether templates of post-processors name only what there is: the library takes that for
/// granted.
fn templates_are_sound(json: &Value) -> std::result::Result<(), String> {
    fn list(value: &Value) -> std::slice::Iter<'_, Value> {
        value.as_array().map_or(&[][..], Vec::as_slice).iter()
    }
    let mut pending = vec![&json["post_processor"]];
    while let Some(processor) = pending.pop() {
        pending.extend(list(&processor["processors"]));
        for (name, sequences) in [("single", &["A"][..]), ("pair", &["A", "B"])] {
            for piece in list(&processor[name]) {
                let bad = |found: &str, expected: &str| {
                    Err(format!("post_processor, {name}: found {found:?}, expected {expected}"))
                };
                match (piece["SpecialToken"]["id"].as_str(), piece["Sequence"]["id"].as_str()) {
                    (Some(id), _) if processor["special_tokens"].get(id).is_none() => {
                        return bad(id, "one of its special_tokens");
                    }
                    (_, Some(id)) if !sequences.contains(&id) => {
                        return bad(id, &sequences.join(" or "));
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

fn to_i32(id: u32) -> Option<i32> {
    i32::try_from(id).ok()
}

/// The 256 printable characters that stand for bytes in byte-level vocabularies: bytes that print
/// stand for themselves, the others are moved to U+0100 and up, in order (GPT-2's table).
fn byte_level_alphabet() -> HashMap<char, u8> {
    let mut moved = 0x100_u32;
    (0..=255_u8)
        .map(|byte| {
            let prints = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
            if prints {
                return (char::from(byte), byte);
            }
            let c = char::from_u32(moved).expect("U+0100 to U+0143 are characters");
            moved += 1;
            (c, byte)
        })
        .collect()
}

/// What becomes of special tokens in decoded text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// Left out.
    Skip,
    /// Written as their strings.
    Keep,
}

/// Turns tokens into text as they come, in whole code points: a byte-level token may end in the
/// middle of one, and its bytes then wait for the next token.
#[derive(Clone, Debug)]
pub struct TextStream {
    specials: Specials,
    /// Bytes of an unfinished code point (byte-level vocabularies).
    pending: Vec<u8>,
    /// Tokens whose text depends on their neighbours (other vocabularies): those before `shown`
    /// are context, their text is out.
    window: Vec<u32>,
    shown: usize,
}

impl TextStream {
    /// An empty stream.
    pub fn new(specials: Specials) -> Self {
        TextStream { specials, pending: Vec::new(), window: Vec::new(), shown: 0 }
    }

    /// The text that became certain with token `id`, possibly none. Bytes that can no longer
    /// become a code point come out as U+FFFD.
    ///
    /// # Errors
    /// [`GenerateError::Decode`] if the tokenizer refuses the token beside its neighbours.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: i32) -> Result<String> {
        let Ok(id) = u32::try_from(id) else { return Ok(String::new()) };
        let special = tokenizer.added.get(&id).is_some_and(|t| t.special);
        if special && self.specials == Specials::Skip {
            return self.finish(tokenizer);
        }
        match tokenizer.token_bytes(id) {
            Some(bytes) => {
                self.pending.extend_from_slice(&bytes);
                Ok(take_valid(&mut self.pending))
            }
            None => self.push_window(tokenizer, id),
        }
    }

    fn push_window(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String> {
        // A code point has at most four bytes, so four byte tokens in a row that still end in
        // U+FFFD are invalid for good.
        const LONGEST: usize = 4;
        self.window.push(id);
        let text = self.window_text(tokenizer)?;
        if text.ends_with('\u{FFFD}') && self.window.len() - self.shown < LONGEST {
            return Ok(String::new());
        }
        self.window.drain(..self.shown);
        self.shown = self.window.len();
        Ok(text)
    }

    /// Text of the window beyond what is shown already.
    fn window_text(&self, tokenizer: &Tokenizer) -> Result<String> {
        let refused = |detail| GenerateError::Decode { detail };
        let decode = |ids: &[u32]| {
            let text = guarded(|| tokenizer.inner.decode(ids, false)).map_err(refused)?;
            text.map_err(|e| refused(e.to_string()))
        };
        let (before, all) = (decode(&self.window[..self.shown])?, decode(&self.window)?);
        Ok(all.get(before.len()..).unwrap_or_default().to_owned())
    }

    /// What was held back, as it stands: an unfinished code point becomes U+FFFD.
    ///
    /// # Errors
    /// As [`TextStream::push`].
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String> {
        let mut text = String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned();
        if self.shown < self.window.len() {
            text.push_str(&self.window_text(tokenizer)?);
        }
        self.window.clear();
        self.shown = 0;
        Ok(text)
    }
}

/// Takes the longest prefix of `pending` that later bytes cannot change.
fn take_valid(pending: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut used = 0;
    for chunk in pending.utf8_chunks() {
        text.push_str(chunk.valid());
        used += chunk.valid().len();
        let rest = &pending[used..];
        let unfinished = used + chunk.invalid().len() == pending.len()
            && std::str::from_utf8(rest).is_err_and(|e| e.error_len().is_none());
        if unfinished {
            break;
        }
        if !chunk.invalid().is_empty() {
            text.push('\u{FFFD}');
            used += chunk.invalid().len();
        }
    }
    pending.drain(..used);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabet_is_one_to_one() {
        let alphabet = byte_level_alphabet();
        assert_eq!(alphabet.len(), 256);
        assert_eq!(alphabet[&'Ġ'], b' ');
        assert_eq!(alphabet[&'Ċ'], b'\n');
        assert_eq!(alphabet[&'ł'], 0xA0);
    }

    #[test]
    fn bytes_come_out_in_whole_code_points() {
        let text = "aé€😀z";
        for split in 1..text.len() {
            let (mut pending, mut out) = (Vec::new(), String::new());
            for part in [&text.as_bytes()[..split], &text.as_bytes()[split..]] {
                pending.extend_from_slice(part);
                let piece = take_valid(&mut pending);
                assert!(!piece.contains('\u{FFFD}'), "split at {split} gave {piece:?}");
                out.push_str(&piece);
            }
            assert_eq!(out, text);
            assert!(pending.is_empty());
        }
    }

    #[test]
    fn bytes_that_cannot_become_text_are_replaced_at_once() {
        let mut pending = vec![b'a', 0xFF, b'b', 0xE2, 0x82];
        assert_eq!(take_valid(&mut pending), "a\u{FFFD}b");
        assert_eq!(pending, [0xE2, 0x82]);
        pending.push(b'c');
        assert_eq!(take_valid(&mut pending), "\u{FFFD}c");
        assert!(pending.is_empty());
    }
}

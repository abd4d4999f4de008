//! The tokenizer and template of the small example model against texts that the reference
//! implementation encoded (`tests/goldens/tiny-v3`, from Hugging Face transformers).

use generate::chat::{ChatOptions, ChatTemplate, Message};
use generate::tokenize::{Bos, Specials, TextStream, Tokenizer};
use generate::{GenerateError, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};

struct Prompt {
    prompt_text: String,
    input_ids: Vec<i32>,
    greedy_text: String,
    greedy_ids: Vec<i32>,
}

#[derive(Deserialize)]
struct Goldens {
    prompts: Vec<Texts>,
}

#[derive(Deserialize)]
struct Texts {
    prompt_text: String,
    greedy_text: String,
}

fn model_file(name: &str) -> Vec<u8> {
    let path: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "../../examples/models/tiny-v3", name].iter().collect();
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn tokenizer() -> Tokenizer {
    let config = model_file("tokenizer_config.json");
    Tokenizer::from_json(&model_file("tokenizer.json"), Some(&config)).expect("it is sound")
}

fn golden_file(extension: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny-v3");
    let path = path.with_extension(extension);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn prompts() -> Vec<Prompt> {
    let goldens: Goldens = serde_json::from_slice(&golden_file("json")).expect("prompts");
    let bytes = golden_file("safetensors");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("tensors");
    let ids = |name: String| -> Vec<i32> {
        let data = tensors.tensor(&name).expect("the prompt has it").data();
        let id = |b: &[u8]| i64::from_le_bytes(b.try_into().expect("chunks of 8"));
        data.chunks_exact(8).map(|b| id(b) as i32).collect()
    };
    let prompt = |(i, texts): (usize, Texts)| Prompt {
        prompt_text: texts.prompt_text,
        greedy_text: texts.greedy_text,
        input_ids: ids(format!("p{i}.input_ids")),
        greedy_ids: ids(format!("p{i}.greedy_ids")),
    };
    goldens.prompts.into_iter().enumerate().map(prompt).collect()
}

#[test]
fn reference_texts_encode_to_reference_ids() {
    let tokenizer = tokenizer();
    let prompts = prompts();
    assert_eq!(prompts.len(), 6);
    for p in &prompts {
        let ids = tokenizer.encode(&p.prompt_text, Bos::AsWritten).expect("plain text");
        assert_eq!(ids, p.input_ids);
        assert_eq!(tokenizer.decode(&ids, Specials::Keep).expect("text"), p.prompt_text);
        assert_eq!(tokenizer.decode(&p.greedy_ids, Specials::Keep).expect("text"), p.greedy_text);
    }
}

#[test]
fn bos_is_there_once() {
    let tokenizer = tokenizer();
    let bos = tokenizer.bos().expect("the model has one");
    assert_eq!((bos, tokenizer.eos()), (0, Some(1)));
    for p in prompts() {
        let bare = p.prompt_text.trim_start_matches("<｜begin▁of▁sentence｜>");
        for text in [bare, &p.prompt_text] {
            assert_eq!(tokenizer.encode(text, Bos::Add).expect("plain text"), p.input_ids);
        }
        let without = tokenizer.encode(bare, Bos::AsWritten).expect("plain text");
        assert_eq!(without, p.input_ids[1..]);
    }
    assert_eq!(tokenizer.encode("", Bos::Add).expect("nothing"), [bos]);
}

#[test]
fn the_configuration_decides_on_bos() {
    let config =
        br#"{"add_bos_token": false, "bos_token": "<\uff5cbegin\u2581of\u2581sentence\uff5c>"}"#;
    let json = model_file("tokenizer.json");
    let never = Tokenizer::from_json(&json, Some(config)).expect("it is sound");
    let by_file = Tokenizer::from_json(&json, None).expect("it is sound");
    let ids = never.encode("In the", Bos::Add).expect("plain text");
    assert!(!ids.contains(&0));
    let post_processed = by_file.encode("In the", Bos::Add).expect("plain text");
    assert_eq!(post_processed[0], 0);
    assert_eq!(post_processed[1..], ids);
}

#[test]
fn special_tokens_are_found_by_string() {
    let tokenizer = tokenizer();
    assert_eq!(tokenizer.id_of("<｜User｜>"), Some(4094));
    assert_eq!(tokenizer.id_of("<|User|>"), None);
    assert!(tokenizer.is_special(0) && !tokenizer.is_special(4094) && !tokenizer.is_special(-1));
    let defined = tokenizer.defined(4100);
    assert_eq!(defined.iter().filter(|d| **d).count(), 4096);
    assert_eq!(defined[4096..], [false; 4]);
    let ascii = tokenizer.encode("<|User|>", Bos::AsWritten).expect("plain text");
    assert!(ascii.len() > 1);
}

#[test]
fn text_round_trips_and_streams_in_whole_code_points() {
    let tokenizer = tokenizer();
    let text = "Naïve 中文かな 😀👩‍👩‍👧 \u{10FFFF}\0 tabs\tand\r\n\nlines  12345 <｜User｜> $#@ é";
    let ids = tokenizer.encode(text, Bos::AsWritten).expect("plain text");
    let mut stream = TextStream::new(Specials::Keep);
    let mut pieces: Vec<String> =
        ids.iter().map(|&id| stream.push(&tokenizer, id).expect("text")).collect();
    assert!(pieces.iter().any(String::is_empty), "no code point was split: {pieces:?}");
    pieces.push(stream.finish(&tokenizer).expect("text"));
    assert_eq!(pieces.concat(), text);
    assert!(!pieces.concat().contains('\u{FFFD}'));
}

#[test]
fn an_unfinished_code_point_is_replaced_at_the_end() {
    let tokenizer = tokenizer();
    let ids = tokenizer.encode("a😀", Bos::AsWritten).expect("plain text");
    let cut = &ids[..ids.len() - 1];
    let mut stream = TextStream::new(Specials::Skip);
    let shown: String = cut.iter().map(|&id| stream.push(&tokenizer, id).expect("text")).collect();
    assert_eq!(shown, "a");
    assert_eq!(stream.finish(&tokenizer).expect("text"), "\u{FFFD}");
    assert_eq!(tokenizer.decode(&[0, ids[0], 1], Specials::Skip).expect("text"), "a");
}

#[test]
fn other_vocabularies_stream_too() {
    let json = r#"{"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "truncation": null, "padding": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "byte_fallback": true, "merges": [], "unk_token": null,
            "vocab": {"▁a": 0, "b": 1, "<0xE2>": 2, "<0x82>": 3, "<0xAC>": 4, "▁c": 5}}}"#;
    let tokenizer = Tokenizer::from_json(json.as_bytes(), None).expect("it is sound");
    let ids = [0, 1, 5, 2, 3, 4, 5, 2, 3];
    let mut stream = TextStream::new(Specials::Skip);
    let pieces: Vec<String> =
        ids.iter().map(|&id| stream.push(&tokenizer, id).expect("text")).collect();
    assert_eq!(pieces, ["a", "b", " c", "", "", "€", " c", "", ""]);
    let rest = stream.finish(&tokenizer).expect("text");
    assert!(!rest.is_empty() && rest.chars().all(|c| c == '\u{FFFD}'), "{rest:?}");
}

#[test]
fn the_chat_template_gives_the_trained_form() -> Result<()> {
    let config = model_file("tokenizer_config.json");
    let template = ChatTemplate::from_config(Some(&config), None)?;
    let mut messages = vec![Message::new("user", "Recite Genesis 1:1.")];
    let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
    let first = "<｜begin▁of▁sentence｜><｜User｜>Recite Genesis 1:1.<｜Assistant｜>";
    assert_eq!(template.render(&messages, &options)?, first);
    messages.push(Message::new("assistant", "In the beginning"));
    messages.push(Message::new("user", "Go on."));
    let second =
        format!("{first}In the beginning<｜end▁of▁sentence｜><｜User｜>Go on.<｜Assistant｜>");
    assert_eq!(template.render(&messages, &options)?, second);
    let ids = tokenizer().encode(first, Bos::AsWritten)?;
    assert_eq!(ids, prompts()[2].input_ids);
    Ok(())
}

#[test]
fn damaged_files_are_refused() {
    let good = model_file("tokenizer.json");
    let cut = Tokenizer::from_json(&good[..good.len() / 2], None).map(|_| ());
    assert!(matches!(cut, Err(GenerateError::BadTokenizer { file: "tokenizer.json", .. })));
    let config = Tokenizer::from_json(&good, Some(b"[]")).map(|_| ());
    assert!(matches!(
        config,
        Err(GenerateError::BadTokenizer { file: "tokenizer_config.json", .. })
    ));
}

//! Parsers of what stands between text and token ids, and of what commands are given.

use super::{Outcome, Refusal, utf8};
use generate::GenerateError;
use generate::chat::{ChatOptions, ChatTemplate, Message};
use generate::command::{goldens as golden, ids as numbers};
use generate::tokenize::{Bos, Specials, Tokenizer};

/// Operations of a template: a rendering that takes more is refused.
const FUEL: u64 = 20_000;
/// What stands between two files in one input; no text has it.
pub const BETWEEN: u8 = 0;

fn refused(error: GenerateError) -> Vec<Refusal> {
    vec![Refusal::new(error.code(), error)]
}

/// Two files in one input.
fn two(input: &[u8]) -> (&[u8], Option<&[u8]>) {
    match input.iter().position(|byte| *byte == BETWEEN) {
        Some(at) => (&input[..at], Some(&input[at + 1..])),
        None => (input, None),
    }
}

/// tokenizer.json, and perhaps tokenizer_config.json.
pub fn tokenizer(input: &[u8]) -> Outcome {
    let (json, config) = two(input);
    let tokenizer = Tokenizer::from_json(json, config).map_err(refused)?;
    let text = "Hello, world\n 12\té\u{1F600} <s>the end</s>";
    let mut ids = tokenizer.encode(text, Bos::Add).map_err(refused)?;
    ids.extend([-1, 0, 1, 2, 3, i32::MAX]);
    for specials in [Specials::Skip, Specials::Keep] {
        tokenizer.decode(&ids, specials).map_err(refused)?;
    }
    assert_eq!(tokenizer.defined(100).len(), 100);
    Ok(())
}

/// A chat template by itself.
pub fn template(input: &[u8]) -> Outcome {
    let template = ChatTemplate::from_config(None, Some(input)).map_err(refused)?;
    render(template)
}

/// tokenizer_config.json, with the template in it.
pub fn chat(input: &[u8]) -> Outcome {
    let template = ChatTemplate::from_config(Some(input), None).map_err(refused)?;
    render(template)
}

/// On another thread than the parser's: of what it takes, only whether it ends is watched.
fn render(template: ChatTemplate) -> Outcome {
    let template = template.with_fuel(FUEL);
    let messages = [
        Message::new("system", "be brief"),
        Message::new("user", "a <b> é"),
        Message::new("assistant", "<think>x</think>y"),
        Message::new("user", ""),
    ];
    for add_generation_prompt in [true, false] {
        let options = ChatOptions { add_generation_prompt, ..ChatOptions::default() };
        template.render(&messages, &options).map_err(refused)?;
    }
    Ok(())
}

/// Goldens: their JSON and their tensors.
pub fn goldens(input: &[u8]) -> Outcome {
    let (json, data) = two(input);
    let all = golden::parse("goldens".as_ref(), json, data.unwrap_or(&[])).map_err(refused)?;
    for golden in all {
        let rows = golden.input.len() - golden.first;
        assert!(golden.logits.len() <= rows * golden.vocab, "{}: more rows", golden.name);
    }
    Ok(())
}

/// Token ids, as a file's JSON and as an argument.
pub fn ids(input: &[u8]) -> Outcome {
    let text = utf8(input)?;
    if !text.ends_with(".json") {
        let _ = numbers::prompt(text).map_err(refused);
    }
    let lists = numbers::parse("ids".as_ref(), input).map_err(refused)?;
    assert!(!lists.is_empty() && lists.iter().flatten().all(|id| *id >= 0));
    Ok(())
}

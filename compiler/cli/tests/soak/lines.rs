//! Lines that are said to a model: plain, odd, blank, far too long.

use crate::dice::Dice;
use std::ops::Range;

const WORDS: [&str; 16] = [
    "and", "the", "LORD", "said", "unto", "Moses", "why", "is", "water", "seven", "Explain", "in",
    "42", "days?", "house,", "not",
];

/// Special tokens, parts of characters that belong together, directions, things that templates and
/// terminals mean something by.
const ODD: [&str; 20] = [
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<｜begin▁of▁sentence｜>",
    "</think>",
    "{{ messages }}{% raw %}",
    "\0",
    "\u{1b}[2J",
    "\u{7f}\u{8}",
    "\r",
    "\u{2028}\u{85}",
    "e\u{301}\u{301}\u{301}",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "\u{202e}שלום\u{202c}",
    "漢字かな",
    "\u{FFFD}\u{FEFF}",
    "\u{10FFFF}\u{E000}",
    "ﷺ",
    "'\"\\`$(x)",
    "/reset",
];

const BLANK: [&str; 5] = ["", "   ", "\t", "\u{3000}\u{a0}", "\r"];

/// One line without its end; never `/exit`.
pub fn draw(dice: &mut Dice) -> Vec<u8> {
    match dice.below(100) {
        0..30 => words(dice, 1..6),
        30..60 => words(dice, 6..60),
        60..66 => words(dice, 100..250),
        66..70 => words(dice, 500..1500),
        70..72 => run(dice),
        72..78 => dice.of(&BLANK).as_bytes().to_vec(),
        78..88 => odd(dice),
        88..93 => bytes(dice),
        _ => b"/reset".to_vec(),
    }
}

/// Words of a list in which no two are the same.
pub fn distinct(which: Range<usize>) -> Vec<u8> {
    let letter = |n: usize| char::from(b'a' + (n % 26) as u8);
    let word = |n: usize| [n, n / 26, n / 676, n / 17_576].map(letter).iter().collect::<String>();
    which.map(word).collect::<Vec<String>>().join(" ").into_bytes()
}

fn words(dice: &mut Dice, count: Range<usize>) -> Vec<u8> {
    let count = dice.within(count);
    let all: Vec<&str> = (0..count).map(|_| *dice.of(&WORDS)).collect();
    all.join(" ").into_bytes()
}

/// One character over and over, which tokenizers split in no words.
fn run(dice: &mut Dice) -> Vec<u8> {
    let (character, count) = (*dice.of(&[' ', '\t', 'x', '7', '!', 'ß']), dice.within(500..5000));
    (character.to_string().repeat(count) + "x").into_bytes()
}

/// Odd texts, and characters of anywhere.
fn odd(dice: &mut Dice) -> Vec<u8> {
    let mut text = String::new();
    for _ in 0..dice.within(1..12) {
        match dice.below(3) {
            0 => text.extend(char::from_u32(dice.below(0x11_0000) as u32)),
            _ => text += *dice.of(&ODD),
        }
    }
    text.replace('\n', " ").into_bytes()
}

/// Bytes that need be no text.
fn bytes(dice: &mut Dice) -> Vec<u8> {
    let count = dice.within(1..40);
    (0..count).map(|_| dice.below(256) as u8).filter(|byte| *byte != b'\n').collect()
}

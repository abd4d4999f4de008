//! Inputs out of other inputs, the same ones from the same seed.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::BTreeSet;
use std::ops::Range;

/// How the inputs of a parser are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In tokens: mutations mostly keep them whole.
    Text,
    /// In fields of fixed width, with texts between.
    Binary,
}

/// No input is longer.
pub const LONGEST: usize = 1 << 17;
/// Different tokens that the dictionary keeps.
const WORDS: usize = 4000;
/// Copies of a token or its opening half that make a bomb.
const BOMB: usize = 1 << 15;
/// One mutation in so many is a bomb.
const BOMB_RATE: usize = 128;
/// Most mutations of one input.
const MOST: usize = 6;

/// Numbers at which parsers go wrong.
const NUMBERS: [&str; 24] = [
    "0",
    "1",
    "-1",
    "2",
    "7",
    "63",
    "64",
    "65",
    "127",
    "128",
    "255",
    "256",
    "65535",
    "65536",
    "2147483647",
    "2147483648",
    "-2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "1e308",
    "0.1e-320",
];
/// Numbers that are no integers of 64 bits, and words beside.
const WORDS_OF_ALL: [&str; 14] = [
    "18446744073709551616",
    "1e999",
    "nan",
    "-inf",
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
    "\u{0}",
    "\u{FEFF}",
    "\u{1F600}",
    "\u{2028}",
    "\\u0000",
];
/// What opens a level of nesting, and what closes it.
const NESTS: [(&str, &str); 10] = [
    ("(", ")"),
    ("[", "]"),
    ("{", "}"),
    ("-", ""),
    ("not ", ""),
    ("{\"a\":", "}"),
    ("max(", ", 1)"),
    ("{% if a %}", "{% endif %}"),
    ("1 + ", ""),
    ("{{ ", " }}"),
];

/// Makes inputs.
pub struct Mutator {
    rng: ChaCha8Rng,
    form: Form,
    words: Vec<Vec<u8>>,
}

/// Tokens: words with what joins them, runs of space, and everything else byte by byte.
fn tokens(input: &[u8]) -> Vec<Range<usize>> {
    let class = |byte: u8| match byte {
        b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'.' | 0x80.. => 1,
        b' ' | b'\t' | b'\n' | b'\r' => 2,
        _ => 0,
    };
    let mut found: Vec<Range<usize>> = vec![];
    for (at, byte) in input.iter().enumerate() {
        match found.last_mut() {
            Some(last) if class(*byte) > 0 && class(input[at - 1]) == class(*byte) => {
                last.end = at + 1;
            }
            _ => found.push(at..at + 1),
        }
    }
    found
}

fn is_number(token: &[u8]) -> bool {
    token.first().is_some_and(u8::is_ascii_digit)
}

impl Mutator {
    /// A mutator with a dictionary of what stands in `corpus`.
    pub fn new(seed: u64, form: Form, corpus: &[Vec<u8>]) -> Mutator {
        let mut words: BTreeSet<&[u8]> = BTreeSet::new();
        for input in corpus {
            words.extend(tokens(input).into_iter().map(|at| &input[at]));
        }
        let own = words.into_iter().filter(|w| w.len() < 64).take(WORDS).map(<[u8]>::to_vec);
        let known = WORDS_OF_ALL.iter().chain(&NUMBERS).map(|w| w.as_bytes().to_vec());
        let words = own.chain(known).collect();
        Mutator { rng: ChaCha8Rng::seed_from_u64(seed), form, words }
    }

    /// From 0 to `n - 1`; 0 for none.
    pub fn below(&mut self, n: usize) -> usize {
        (self.rng.next_u64() % n.max(1) as u64) as usize
    }

    /// A new input out of one of `pool`, whose other members may lend parts.
    pub fn make(&mut self, pool: &[Vec<u8>]) -> Vec<u8> {
        let mut input = pool[self.below(pool.len())].clone();
        let mut count = 1;
        while count < MOST && self.below(2) == 0 {
            count += 1;
        }
        for _ in 0..count {
            self.change(&mut input, pool);
        }
        input.truncate(LONGEST);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, pool: &[Vec<u8>]) {
        if self.below(BOMB_RATE) == 0 {
            return self.bomb(input);
        }
        let bytes = match self.form {
            Form::Text => self.below(8) == 0,
            Form::Binary => self.below(4) != 0,
        };
        match bytes {
            true => self.change_bytes(input),
            false => self.change_tokens(input, pool),
        }
    }

    /// A range of at most `most` of `len` things.
    fn range(&mut self, len: usize, most: usize) -> Range<usize> {
        let start = self.below(len);
        start..(start + 1 + self.below(most)).min(len)
    }

    fn change_bytes(&mut self, input: &mut Vec<u8>) {
        if input.is_empty() {
            return input.push(b'{');
        }
        let at = self.below(input.len());
        match self.below(8) {
            0 => input[at] ^= 1 << self.below(8),
            1 => input[at] = [0, 1, 0x7f, 0x80, 0xff, b'0', b'"', b'\n'][self.below(8)],
            2 => input[at] = input[at].wrapping_add(1 + self.below(255) as u8),
            3 | 4 => self.write_number(input, at),
            5 => {
                let range = self.range(input.len(), 16);
                drop(input.drain(range));
            }
            6 => {
                let range = self.range(input.len(), 16);
                let copy = input[range].to_vec();
                drop(input.splice(at..at, copy));
            }
            _ => match self.below(4) {
                0 => input.truncate(at),
                _ => input.insert(at, self.rng.next_u64() as u8),
            },
        }
    }

    /// Overwrites a field with a number that is interesting, or near to what stands there.
    fn write_number(&mut self, input: &mut [u8], at: usize) {
        let width = [1, 2, 4, 8][self.below(4)].min(input.len() - at);
        let field = &mut input[at..at + width];
        let mut old = [0; 8];
        old[..width].copy_from_slice(field);
        let near = self.below(64) as u64;
        let number = match self.below(4) {
            0 => u64::from_le_bytes(old).wrapping_add(near),
            1 => u64::from_le_bytes(old).wrapping_sub(near),
            2 => (1u64 << self.below(64)).wrapping_sub(near % 3),
            _ => u64::MAX.wrapping_sub(near),
        };
        field.copy_from_slice(&number.to_le_bytes()[..width]);
    }

    fn word(&mut self) -> Vec<u8> {
        let at = self.below(self.words.len());
        self.words[at].clone()
    }

    /// Another token of the dictionary in the place of `token`: mostly of its own kind.
    fn another(&mut self, token: &[u8]) -> Vec<u8> {
        if is_number(token) && self.below(4) != 0 {
            return NUMBERS[self.below(NUMBERS.len())].as_bytes().to_vec();
        }
        let kind = |w: &[u8]| w.first().map(u8::is_ascii_alphabetic);
        for _ in 0..8 {
            let word = self.word();
            if kind(&word) == kind(token) {
                return word;
            }
        }
        self.word()
    }

    fn change_tokens(&mut self, input: &mut Vec<u8>, pool: &[Vec<u8>]) {
        let found = tokens(input);
        if found.is_empty() {
            return input.extend(self.word());
        }
        let span = |range: Range<usize>| found[range.start].start..found[range.end - 1].end;
        let one = span(self.range(found.len(), 1));
        let at = found[self.below(found.len())].start;
        match self.below(12) {
            0 | 1 => {
                let word = self.another(&input[one.clone()]);
                drop(input.splice(one, word));
            }
            2 => {
                let word = self.word();
                drop(input.splice(at..at, word));
            }
            3 => {
                let most = [1, 1, 4, 32][self.below(4)];
                drop(input.drain(span(self.range(found.len(), most))));
            }
            4 | 5 => {
                let copy = input[span(self.range(found.len(), 12))].to_vec();
                drop(input.splice(at..at, copy));
            }
            6 => {
                // In place of another token.
                let copy = input[span(self.range(found.len(), 3))].to_vec();
                drop(input.splice(one, copy));
            }
            7 => self.swap(input, &found),
            8 | 9 => self.change_lines(input),
            10 => self.change_number(input, &found),
            _ => self.splice(input, at, pool),
        }
    }

    fn swap(&mut self, input: &mut Vec<u8>, found: &[Range<usize>]) {
        let (a, b) = (self.below(found.len()), self.below(found.len()));
        let (a, b) = (found[a.min(b)].clone(), found[a.max(b)].clone());
        if a.end <= b.start {
            let parts = [
                &input[..a.start],
                &input[b.clone()],
                &input[a.end..b.start],
                &input[a],
                &input[b.end..],
            ];
            *input = parts.concat();
        }
    }

    fn change_number(&mut self, input: &mut Vec<u8>, found: &[Range<usize>]) {
        let numbers: Vec<&Range<usize>> =
            found.iter().filter(|at| is_number(&input[(*at).clone()])).collect();
        if numbers.is_empty() {
            return;
        }
        let at = numbers[self.below(numbers.len())].clone();
        let old = std::str::from_utf8(&input[at.clone()]).ok().and_then(|n| n.parse::<i64>().ok());
        let text = match (old, self.below(3)) {
            (Some(old), 0) => old.wrapping_add(1).to_string(),
            (Some(old), 1) => old.wrapping_mul(2).wrapping_sub(1).to_string(),
            _ => NUMBERS[self.below(NUMBERS.len())].to_string(),
        };
        drop(input.splice(at, text.into_bytes()));
    }

    /// Lines, or what stands between commas where there is one line.
    fn change_lines(&mut self, input: &mut Vec<u8>) {
        let mark = if input.contains(&b'\n') && self.below(4) != 0 { b'\n' } else { b',' };
        let mut lines: Vec<Vec<u8>> =
            input.split_inclusive(|b| *b == mark).map(<[u8]>::to_vec).collect();
        let (a, b) = (self.below(lines.len()), self.below(lines.len()));
        match self.below(3) {
            _ if lines.is_empty() => {}
            0 => drop(lines.remove(a)),
            1 => lines.swap(a, b),
            _ => lines.insert(b, lines[a].clone()),
        }
        *input = lines.concat();
    }

    /// Ends as another input of the pool does, or has a piece of it inside.
    fn splice(&mut self, input: &mut Vec<u8>, at: usize, pool: &[Vec<u8>]) {
        let other = &pool[self.below(pool.len())];
        let starts = tokens(other);
        if starts.is_empty() {
            return;
        }
        let range = self.range(starts.len(), 64);
        let (from, to) = (starts[range.start].start, starts[range.end - 1].end);
        match self.below(2) {
            0 => {
                input.truncate(at);
                input.extend(&other[from..]);
            }
            _ => drop(input.splice(at..at, other[from..to].iter().copied())),
        }
    }

    /// Nests deeply, or says the same thing very often.
    fn bomb(&mut self, input: &mut Vec<u8>) {
        let found = tokens(input);
        let count = 1 << self.below(BOMB.ilog2() as usize + 1);
        let at = found.get(self.below(found.len())).map_or(0, |token| token.start);
        if self.below(2) == 0 && !found.is_empty() {
            let range = self.range(found.len(), 4);
            let from = found[range.start].start..found[range.end - 1].end;
            let piece = input[from.clone()].to_vec();
            let count = count.min(LONGEST / piece.len());
            return drop(input.splice(from.end..from.end, piece.repeat(count)));
        }
        let (open, close) = NESTS[self.below(NESTS.len())];
        let count = count.min(LONGEST / (open.len() + close.len()));
        let end = found.get(self.below(found.len())).map_or(0, |token| token.end).max(at);
        let inner = input[at..end].to_vec();
        let nest = [open.repeat(count).as_bytes(), &inner, close.repeat(count).as_bytes()].concat();
        drop(input.splice(at..end, nest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_make_equal_inputs() {
        let corpus = vec![b"graph @g(%x: f32[s, 12])".to_vec(), b"{\"a\": [1, 2]}".to_vec()];
        let make = |seed| {
            let mut mutator = Mutator::new(seed, Form::Text, &corpus);
            (0..500).map(|_| mutator.make(&corpus)).collect::<Vec<_>>()
        };
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
        let (all, different) = (make(1), BTreeSet::from_iter(make(1)));
        assert!(different.len() > 400, "{} of 500", different.len());
        assert!(all.iter().all(|input| input.len() <= LONGEST));
        assert!(all.iter().any(|input| input.len() > 4000), "some are bombs");
    }

    #[test]
    fn tokens_cover_the_input() {
        let input = b"%q = f32[s,  12]\n";
        let found: Vec<&[u8]> = tokens(input).into_iter().map(|at| &input[at]).collect();
        let expected: [&[u8]; 11] =
            [b"%", b"q", b" ", b"=", b" ", b"f32", b"[", b"s", b",", b"  ", b"12"];
        assert_eq!(found[..11], expected);
        assert_eq!(found.concat(), input);
    }
}

//! Tokens.

use crate::error::Span;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A name: a letter or `_`, then letters, digits, `_`, and `.` before one of these.
    Word,
    /// `%name`; [`Token::text`] is without the sign.
    Value,
    /// `@name`; [`Token::text`] is without the sign.
    Global,
    /// Digits, perhaps with a fraction and an exponent; no sign.
    Number,
    /// One of `-> .. == != <= >=`, or a single character.
    Punct,
    /// The end of the text.
    End,
}

/// A token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// What it is.
    pub kind: TokenKind,
    /// Its characters, without a leading `%` or `@`.
    pub text: &'a str,
    /// Where it stands, sign included.
    pub span: Span,
    /// Whether it is the first of its line.
    pub first: bool,
}

/// Cuts a text into tokens; the last is [`TokenKind::End`]. `//` starts a comment.
pub fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut out = Vec::new();
    let (mut at, mut first) = (0, true);
    while let Some(c) = source[at..].chars().next() {
        let rest = &source[at..];
        if c.is_whitespace() {
            first |= c == '\n';
            at += c.len_utf8();
        } else if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else {
            let (kind, len) = token(rest, c);
            let signed = matches!(kind, TokenKind::Value | TokenKind::Global);
            let text = &rest[usize::from(signed)..len];
            out.push(Token { kind, text, span: Span { start: at, end: at + len }, first });
            at += len;
            first = false;
        }
    }
    out.push(Token {
        kind: TokenKind::End,
        text: "",
        span: Span { start: at, end: at },
        first: true,
    });
    out
}

fn token(rest: &str, c: char) -> (TokenKind, usize) {
    match c {
        '%' | '@' if name_length(&rest[1..]) > 0 => {
            let kind = if c == '%' { TokenKind::Value } else { TokenKind::Global };
            (kind, 1 + name_length(&rest[1..]))
        }
        '0'..='9' => (TokenKind::Number, number_length(rest)),
        c if c.is_ascii_alphabetic() || c == '_' => (TokenKind::Word, name_length(rest)),
        _ => {
            let pair = ["->", "..", "==", "!=", "<=", ">="].iter().any(|p| rest.starts_with(p));
            (TokenKind::Punct, if pair { 2 } else { c.len_utf8() })
        }
    }
}

/// A full stop belongs to a name only before another of its characters: `%t0..%t1` is three tokens.
fn name_length(s: &str) -> usize {
    let bytes = s.as_bytes();
    let inside = |i: usize| bytes.get(i).is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let mut n = 0;
    while inside(n) || (n > 0 && bytes.get(n) == Some(&b'.') && inside(n + 1)) {
        n += 1;
    }
    n
}

fn number_length(s: &str) -> usize {
    let bytes = s.as_bytes();
    let digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
    let digits = |mut i: usize| {
        while digit(i) {
            i += 1;
        }
        i
    };
    let mut n = digits(0);
    if bytes.get(n) == Some(&b'.') && digit(n + 1) {
        n = digits(n + 1);
    }
    if matches!(bytes.get(n), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(n + 1), Some(b'+' | b'-')));
        if digit(n + 1 + sign) {
            n = digits(n + 1 + sign);
        }
    }
    n
}

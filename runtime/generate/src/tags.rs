//! The tags of a template, as the template engine divides its text into them.

/// A word or sign of a tag; texts in quotes are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    Word(&'a str),
    Sign(char),
}

/// A tag, `{% .. %}` or `{{ .. }}`, and the line it begins on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tag<'a> {
    pub line: usize,
    pub tokens: Vec<Token<'a>>,
}

/// All tags of a template, but for those in comments and in what is raw.
pub(crate) fn tags(source: &str) -> Vec<Tag<'_>> {
    let mut all = vec![];
    let (mut at, mut line) = (0, 1);
    while let Some(open) = find(source, at, "{") {
        line += source[at..open].matches('\n').count();
        let inside = open + 2;
        let end = match source.as_bytes().get(open + 1) {
            Some(b'#') => find(source, inside, "#}").unwrap_or(source.len()),
            Some(b'%' | b'{') => {
                let close = if source[open..].starts_with("{%") { "%}" } else { "}}" };
                let (tokens, end) = tokens(source, inside, close);
                let raw = close == "%}" && tokens == [Token::Word("raw")];
                all.push(Tag { line, tokens });
                if raw { find(source, end, "endraw").unwrap_or(source.len()) } else { end }
            }
            _ => open + 1,
        };
        line += source[open..end].matches('\n').count();
        at = end;
    }
    all
}

fn find(source: &str, from: usize, what: &str) -> Option<usize> {
    source[from..].find(what).map(|found| from + found)
}

/// The tokens from `at` on to the tag's end, and where that is: what closes a tag closes it only
/// where no bracket is open.
fn tokens<'a>(source: &'a str, start: usize, close: &str) -> (Vec<Token<'a>>, usize) {
    let (mut found, mut open, mut at) = (vec![], 0i64, start);
    while let Some(c) = source[at..].chars().next() {
        let rest = &source[at..];
        if open == 0 && rest.starts_with(close) {
            break;
        }
        let length = match c {
            '"' | '\'' => quoted(rest, c),
            c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        match c {
            '(' | '[' | '{' => open += 1,
            ')' | ']' | '}' => open -= 1,
            _ => {}
        }
        let marks_space = matches!(c, '-' | '+')
            && (at == start || open == 0 && rest[length..].starts_with(close));
        match c {
            '"' | '\'' => {}
            c if is_word(c) => found.push(Token::Word(&rest[..length])),
            c if c.is_whitespace() || marks_space => {}
            c => found.push(Token::Sign(c)),
        }
        at += length;
    }
    (found, at)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Bytes of a text in quotes, which may hold escaped ones.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<(usize, String)> {
        let word = |token: &Token<'_>| match token {
            Token::Word(word) => (*word).to_owned(),
            Token::Sign(sign) => sign.to_string(),
        };
        let text = |tag: &Tag<'_>| tag.tokens.iter().map(word).collect::<Vec<_>>().join(" ");
        tags(source).iter().map(|tag| (tag.line, text(tag))).collect()
    }

    #[test]
    fn a_tag_ends_where_the_engine_ends_it() {
        for (source, expected) in [
            ("a {{ b }}\n{%- if c -%}", &[(1, "b"), (2, "if c")][..]),
            ("{% set a = {'x': {}} + b %}{{ c }}", &[(1, "set a = { : { } } + b"), (1, "c")]),
            ("{{ {'a': {'}}': 1}}['a'] }}", &[(1, "{ : { : 1 } } [ ]")]),
            ("{# {{ ( #}\n{{ a }}", &[(2, "a")]),
            ("{% raw %}{{ ( }}\n{% endraw %}{{ a }}", &[(1, "raw"), (2, "a")]),
            ("{{ a\n % b }}{{ b }}", &[(1, "a % b"), (2, "b")]),
            ("{{- - a -}}", &[(1, "- a")]),
            ("{{{ a", &[(1, "{ a")]),
            ("{", &[]),
            ("{%", &[(1, "")]),
            ("{#", &[]),
            ("é{é{{é}}", &[(1, "é")]),
        ] {
            let found = texts(source);
            let found: Vec<(usize, &str)> = found.iter().map(|(l, t)| (*l, t.as_str())).collect();
            assert_eq!(found, expected, "{source}");
        }
    }
}

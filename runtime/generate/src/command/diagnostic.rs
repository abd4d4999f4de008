//! What went wrong, for people: code, what was found and expected, the place, the next step.

use crate::error::GenerateError;
use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};
use std::env;
use std::fmt::Display;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use thiserror::Error;

/// A text that diagnostics point into, with the name of its file.
#[derive(Clone, Debug)]
pub struct Text(Arc<NamedSource<String>>);

impl Text {
    /// The text of the file `name`.
    pub fn new(name: &str, text: &str) -> Self {
        Text(Arc::new(NamedSource::new(name, text.to_owned())))
    }
}

/// One thing wrong.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct Diagnostic {
    code: &'static str,
    message: String,
    help: Option<String>,
    /// Bytes of a text: whole characters of one line.
    place: Option<(Text, Range<usize>)>,
}

impl Diagnostic {
    /// What was found and what was expected, under its code; and what to do next.
    pub fn new(code: &'static str, message: impl Display, help: Option<String>) -> Self {
        Diagnostic { code, message: message.to_string(), help, place: None }
    }

    /// The same at a range of bytes, of which only the first line is shown. A range that is not
    /// of the text stands for what is nearest.
    pub fn at(self, text: &Text, range: Range<usize>) -> Self {
        let source = text.0.inner();
        let start = source.floor_char_boundary(range.start);
        let line = source[start..].find(['\n', '\r']).map_or(source.len(), |n| start + n);
        let end = source.ceil_char_boundary(range.end).clamp(start, line);
        Diagnostic { place: Some((text.clone(), start..end)), ..self }
    }

    /// The code, `E....`.
    pub fn code(&self) -> &'static str {
        self.code
    }
}

impl miette::Diagnostic for Diagnostic {
    fn code<'a>(&'a self) -> Option<Box<dyn Display + 'a>> {
        Some(Box::new(self.code))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.place.as_ref().map(|(text, _)| &text.0 as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let (_, range) = self.place.as_ref()?;
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(None, range.clone()))))
    }
}

impl From<&GenerateError> for Diagnostic {
    fn from(error: &GenerateError) -> Self {
        Diagnostic::new(error.code(), error, error.help())
    }
}

/// Writes diagnostics one after the other: plainly, or as a terminal can show them. Lines are
/// never broken, so that messages can be searched for. What cannot be written is lost: nobody is
/// left to be told.
pub fn report(all: &[Diagnostic], terminal: bool, err: &mut dyn Write) {
    let handler = GraphicalReportHandler::new_themed(theme(terminal)).with_wrap_lines(false);
    let render = |one: &Diagnostic| {
        let mut text = String::new();
        // Code and message come first: a place that cannot be drawn does not hide them.
        let _ = handler.render_report(&mut text, one);
        text
    };
    let texts: Vec<String> = all.iter().map(render).collect();
    let _ = err.write_all(texts.join("\n").as_bytes());
}

/// Colours and more than ASCII only where a terminal is known to show them, and `NO_COLOR` does
/// not forbid them.
fn theme(terminal: bool) -> GraphicalTheme {
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    if !terminal || env::var_os("TERM").is_none_or(|term| term == "dumb") {
        GraphicalTheme::none()
    } else if is_set("NO_COLOR") {
        GraphicalTheme::unicode_nocolor()
    } else {
        GraphicalTheme::unicode()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(all: &[Diagnostic], terminal: bool) -> String {
        let mut shown = vec![];
        report(all, terminal, &mut shown);
        String::from_utf8(shown).expect("UTF-8")
    }

    fn at(text: &str, range: Range<usize>) -> String {
        let one = Diagnostic::new("E0000", "found it", Some("mend it".to_owned()));
        shown(&[one.at(&Text::new("t.graph", text), range)], false)
    }

    #[test]
    fn a_place_is_marked_in_its_line() {
        let expected = "E0000\n\n  x found it\n   ,-[t.graph:2:2]\n 1 | one\n \
            2 |     two größe\n   :     ^^^\n   `----\n  help: mend it\n";
        assert_eq!(at("one\n\ttwo größe\n", 5..8), expected);
        // Of several lines only the first is marked; a place inside a character is all of it.
        assert!(at("one\n\ttwo größe\n", 0..99).contains("one\n   : ^^^\n"));
        assert!(at("größe\n", 3..4).contains("größe\n   :   ^\n"));
    }

    #[test]
    fn no_place_is_so_odd_that_the_rest_is_not_said() {
        for text in ["", "\n", "\r", "\r\n\r", "a\rb\r\n", "\t", "one\n\ttwo größe\u{1f600}", "\0"]
        {
            for start in (0..text.len() + 3).chain([usize::MAX]) {
                for end in (0..text.len() + 3).chain([usize::MAX]) {
                    let shown = at(text, start..end);
                    let whole = shown.starts_with("E0000\n\n  x found it\n   ,-[t.graph:");
                    assert!(whole && shown.ends_with("\n  help: mend it\n"), "{shown}");
                }
            }
        }
    }

    #[test]
    fn off_a_terminal_there_is_only_text_in_whole_lines() {
        let long = "word ".repeat(200);
        let all = [Diagnostic::new("E0001", &long, None), Diagnostic::new("E0002", "b\nc", None)];
        assert_eq!(shown(&all, false), format!("E0001\n\n  x {long}\n\nE0002\n\n  x b\n  | c\n"));
    }
}

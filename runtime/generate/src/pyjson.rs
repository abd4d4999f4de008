//! JSON text in the form of Python's `json.dumps`, which models were trained on.

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};
use std::io::{self, Write};

/// The options of `json.dumps` that templates use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Style {
    /// Spaces for each level; one line if none.
    pub indent: Option<usize>,
    /// Write characters beyond ASCII as `\uXXXX`.
    pub ensure_ascii: bool,
    /// Keys in order of their text instead of as given.
    pub sort_keys: bool,
    /// Between items, and between key and value.
    pub separators: Option<[String; 2]>,
}

/// `value` as text.
pub(crate) fn dumps(value: &Value, style: &Style) -> String {
    let sorted;
    let value = if style.sort_keys {
        sorted = sort_keys(value);
        &sorted
    } else {
        value
    };
    let (item, key) = match (&style.separators, style.indent) {
        (Some([item, key]), _) => (item.as_str(), key.as_str()),
        (None, None) => (", ", ": "),
        (None, Some(_)) => (",", ": "),
    };
    let indent = " ".repeat(style.indent.unwrap_or(0));
    let python = Python {
        item,
        key,
        ensure_ascii: style.ensure_ascii,
        layout: style.indent.map(|_| PrettyFormatter::with_indent(indent.as_bytes())),
    };
    let mut out = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut out, python))
        .expect("writing JSON values to memory cannot fail");
    String::from_utf8(out).expect("JSON is UTF-8")
}

fn sort_keys(value: &Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.iter().map(sort_keys).collect()),
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().map(|(k, v)| (k.clone(), sort_keys(v))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        other => other.clone(),
    }
}

struct Python<'a> {
    item: &'a str,
    key: &'a str,
    ensure_ascii: bool,
    layout: Option<PrettyFormatter<'a>>,
}

impl Python<'_> {
    /// What stands before an item: the separator, then the line break and indent that the pretty
    /// formatter would write for a first item.
    fn separate<W: ?Sized + Write>(&self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(self.item.as_bytes()) }
    }
}

impl Formatter for Python<'_> {
    fn begin_array<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        match &mut self.layout {
            Some(pretty) => pretty.begin_array(w),
            None => CompactFormatter.begin_array(w),
        }
    }

    fn end_array<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        match &mut self.layout {
            Some(pretty) => pretty.end_array(w),
            None => CompactFormatter.end_array(w),
        }
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        self.separate(w, first)?;
        match &mut self.layout {
            Some(pretty) => pretty.begin_array_value(w, true),
            None => Ok(()),
        }
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.layout.as_mut().map_or(Ok(()), |pretty| pretty.end_array_value(w))
    }

    fn begin_object<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        match &mut self.layout {
            Some(pretty) => pretty.begin_object(w),
            None => CompactFormatter.begin_object(w),
        }
    }

    fn end_object<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        match &mut self.layout {
            Some(pretty) => pretty.end_object(w),
            None => CompactFormatter.end_object(w),
        }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        self.separate(w, first)?;
        match &mut self.layout {
            Some(pretty) => pretty.begin_object_key(w, true),
            None => Ok(()),
        }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        w.write_all(self.key.as_bytes())
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.layout.as_mut().map_or(Ok(()), |pretty| pretty.end_object_value(w))
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, w: &mut W, s: &str) -> io::Result<()> {
        if !self.ensure_ascii || s.is_ascii() {
            return w.write_all(s.as_bytes());
        }
        for unit in s.encode_utf16() {
            match u8::try_from(unit) {
                Ok(byte) if byte.is_ascii() => w.write_all(&[byte])?,
                _ => write!(w, "\\u{unit:04x}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn follows_json_dumps() {
        let value = json!({"b": [1, {"é": "😀"}], "a": {}, "c": []});
        let plain = dumps(&value, &Style::default());
        assert_eq!(plain, r#"{"b": [1, {"é": "😀"}], "a": {}, "c": []}"#);
        let ascii = Style { ensure_ascii: true, sort_keys: true, ..Style::default() };
        let text = r#"{"a": {}, "b": [1, {"\u00e9": "\ud83d\ude00"}], "c": []}"#;
        assert_eq!(dumps(&value, &ascii), text);
        let tight = Style { separators: Some([",".into(), ":".into()]), ..Style::default() };
        assert_eq!(dumps(&value, &tight), r#"{"b":[1,{"é":"😀"}],"a":{},"c":[]}"#);
        let deep = Style { indent: Some(1), ..Style::default() };
        let text =
            "{\n \"b\": [\n  1,\n  {\n   \"é\": \"😀\"\n  }\n ],\n \"a\": {},\n \"c\": []\n}";
        assert_eq!(dumps(&value, &deep), text);
    }
}

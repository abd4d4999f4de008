//! Chat templates, as checkpoints publish them: Jinja with the functions that the reference
//! renderer of Hugging Face transformers offers.

use crate::confined::{self, Beyond, Limits};
use crate::error::{GenerateError, Result};
use crate::tags::{Tag, Token, tags};
use crate::tokenize::TokenName;
use crate::{namespaces, pyjson};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::Map;
use std::sync::Arc;
use std::time::Duration;

/// Operations that a rendering may take: a hundred for each of ten thousand messages.
const FUEL: u64 = 1_000_000;
/// What the operations of a rendering may use together: each may put a value into another, and the
/// engine calls itself for what a value holds where it prints or frees it; or double a value.
const LIMITS: Limits = Limits { stack: 1 << 29, memory: 1 << 28, time: Duration::from_secs(20) };
/// Words and signs of a tag, and branches of conditions: for each the engine calls itself once more
/// where it reads the template.
const LONGEST_TAG: usize = 1000;
const MOST_BRANCHES: usize = 200;
/// Name of the template inside the engine; without a suffix, so that nothing is HTML-escaped.
const NAME: &str = "chat_template";

/// One turn of a conversation. Further keys (`tool_calls`, `reasoning_content`, ...) reach the
/// template as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub role: String,
    /// Text of the turn; templates test whether it is none.
    pub content: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, serde_json::Value>,
}

impl Message {
    /// A turn with a role and a text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: Some(content.into()), extra: Map::new() }
    }
}

/// What a template sees beside the messages.
#[derive(Clone, Debug, Default)]
pub struct ChatOptions {
    /// End the text so that the model continues as the assistant.
    pub add_generation_prompt: bool,
    /// Tool descriptions, as in the OpenAI API; the template sees none if left out.
    pub tools: Option<serde_json::Value>,
    /// Further variables, e.g. `thinking` or `enable_thinking`.
    pub variables: Map<String, serde_json::Value>,
}

/// A parsed template with the special tokens it may name.
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    tokens: Vec<(&'static str, String)>,
    fuel: u64,
    limits: Limits,
}

/// The keys of `tokenizer_config.json` that templates depend on.
#[derive(Debug, Default, Deserialize)]
struct Config {
    chat_template: Option<Templates>,
    bos_token: Option<TokenName>,
    eos_token: Option<TokenName>,
    pad_token: Option<TokenName>,
    unk_token: Option<TokenName>,
}

/// One template, or several with names of which `default` is the one for conversations.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<Named>),
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
    template: String,
}

impl ChatTemplate {
    /// Reads the template of `tokenizer_config.json`; a `chat_template.jinja` file beside it has
    /// the last word.
    ///
    /// # Errors
    /// [`GenerateError::BadTokenizer`] if the configuration is not JSON of the known form,
    /// [`GenerateError::NoChatTemplate`] if there is no template,
    /// [`GenerateError::Template`] if it does not parse.
    pub fn from_config(config: Option<&[u8]>, jinja: Option<&[u8]>) -> Result<Self> {
        let bad = |file, detail: String| GenerateError::BadTokenizer { file, detail };
        let config: Config = match config {
            None => Config::default(),
            Some(bytes) => serde_json::from_slice(bytes)
                .map_err(|e| bad("tokenizer_config.json", e.to_string()))?,
        };
        let file = jinja
            .map(|bytes| {
                std::str::from_utf8(bytes).map_err(|e| bad("chat_template.jinja", e.to_string()))
            })
            .transpose()?;
        let source = match (file, config.chat_template) {
            (Some(text), _) => text.to_owned(),
            (None, Some(Templates::One(text))) => text,
            (None, Some(Templates::Named(all))) => all
                .into_iter()
                .find(|t| t.name == "default")
                .map(|t| t.template)
                .ok_or(GenerateError::NoChatTemplate)?,
            (None, None) => return Err(GenerateError::NoChatTemplate),
        };
        let tokens = [
            ("bos_token", config.bos_token),
            ("eos_token", config.eos_token),
            ("pad_token", config.pad_token),
            ("unk_token", config.unk_token),
        ];
        let tokens = tokens
            .into_iter()
            .filter_map(|(key, name)| Some((key, name?.as_str().to_owned())))
            .collect();
        Self::new(&source, tokens)
    }

    /// Parses `source`; `tokens` are variables with the strings of special tokens.
    ///
    /// # Errors
    /// [`GenerateError::Template`] if it does not parse.
    pub fn new(source: &str, tokens: Vec<(&'static str, String)>) -> Result<Self> {
        check(source)?;
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("only whitespace handling differs from the default"));
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|e| template_error(&e, FUEL))?;
        Ok(ChatTemplate { environment: Arc::new(environment), tokens, fuel: FUEL, limits: LIMITS })
    }

    /// Bounds the operations of a rendering to `fuel`.
    pub fn with_fuel(mut self, fuel: u64) -> Self {
        Arc::make_mut(&mut self.environment).set_fuel(Some(fuel));
        self.fuel = fuel;
        self
    }

    /// The prompt for a conversation. It spells out its special tokens, so it is encoded with
    /// [`crate::tokenize::Bos::AsWritten`].
    ///
    /// # Errors
    /// [`GenerateError::Template`] if rendering fails or the template itself raises an exception,
    /// [`GenerateError::EndlessTemplate`] if it does not come to an end.
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String> {
        let mut context = std::collections::BTreeMap::new();
        for (key, text) in &self.tokens {
            context.insert((*key).to_owned(), Value::from(text.as_str()));
        }
        for (key, value) in &options.variables {
            context.insert(key.clone(), Value::from(Serde(value)));
        }
        context.insert("messages".into(), Value::from(Serde(messages)));
        context.insert("add_generation_prompt".into(), Value::from(options.add_generation_prompt));
        context.insert("tools".into(), Value::from(Serde(&options.tools)));
        let (context, environment) = (Value::from(context), Arc::clone(&self.environment));
        let render = move || environment.get_template(NAME)?.render(&context);
        let rendered = confined::run(self.limits, render).map_err(|beyond| {
            let limit = match beyond {
                Beyond::Memory => format!("{} MiB of memory", self.limits.memory >> 20),
                Beyond::Time => format!("{} s", self.limits.time.as_secs()),
            };
            GenerateError::EndlessTemplate { line: None, limit }
        })?;
        rendered.map_err(|e| template_error(&e, self.fuel))
    }
}

/// Refuses what the engine takes and does not come back from.
fn check(source: &str) -> Result<()> {
    let refused = |line, detail: &str| Err(GenerateError::Template { line, detail: detail.into() });
    // The engine numbers columns in 16 bits.
    if let Some(at) = source.lines().position(|line| line.len() >= usize::from(u16::MAX)) {
        return refused(at + 1, "a line of 65535 bytes or more, expected fewer");
    }
    let tags = tags(source);
    if let Some(tag) = tags.iter().find(|tag| tag.tokens.len() > LONGEST_TAG) {
        let found = format!("a tag of more than {LONGEST_TAG} words and signs, expected fewer");
        return refused(tag.line, &found);
    }
    let branch = |tag: &&Tag<'_>| tag.tokens.first() == Some(&Token::Word("elif"));
    if let Some(tag) = tags.iter().filter(branch).nth(MOST_BRANCHES) {
        let found = format!("more than {MOST_BRANCHES} times `elif`, expected fewer");
        return refused(tag.line, &found);
    }
    match namespaces::held(&tags) {
        Some(line) => refused(line, "a namespace in an attribute of one, expected a plain value"),
        None => Ok(()),
    }
}

/// Replaces the tags that mark the assistant's tokens for training by tags that do nothing.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        // Behind the opening, with which a closing may share its sign: `{%}` closes nothing.
        let Some(inside) = rest[open + 2..].find("%}") else { break };
        let length = 2 + inside;
        let tag = &rest[open..open + length];
        out.push_str(&rest[..open]);
        let word = tag[2..].trim_matches(|c: char| c.is_whitespace() || matches!(c, '-' | '+'));
        match word {
            "generation" => out.push_str(&tag.replacen(word, "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen(word, "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = &rest[open + length..];
    }
    out.push_str(rest);
    out
}

fn template_error(error: &Error, fuel: u64) -> GenerateError {
    if error.kind() == ErrorKind::OutOfFuel {
        let limit = format!("{fuel} operations");
        return GenerateError::EndlessTemplate { line: error.line(), limit };
    }
    let line = error.line().unwrap_or(0);
    let detail = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    GenerateError::Template { line, detail }
}

fn raise_exception(message: String) -> std::result::Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The local time in a `strftime` format.
fn strftime_now(format: String) -> std::result::Result<String, Error> {
    jiff::fmt::strtime::format(&format, &jiff::Zoned::now())
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {e}")))
}

/// Python's `json.dumps(value, ensure_ascii=False)` with its options.
fn to_json(
    value: &Value,
    indent: Option<Value>,
    kwargs: Kwargs,
) -> std::result::Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => kwargs.get::<Option<Value>>("indent")?,
    };
    let indent = match indent.filter(|v| !v.is_none() && !v.is_undefined()) {
        None => None,
        Some(v) => Some(usize::try_from(v)?.min(32)),
    };
    let style = pyjson::Style {
        indent,
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        separators: kwargs
            .get::<Option<Vec<String>>>("separators")?
            .and_then(|pair| <[String; 2]>::try_from(pair).ok()),
    };
    kwargs.assert_all_used()?;
    let json = serde_json::to_value(value)
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("tojson: {e}")))?;
    Ok(Value::from(pyjson::dumps(&json, &style)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[Message]) -> Result<String> {
        let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
        ChatTemplate::new(source, vec![("bos_token", "<s>".into())])?.render(messages, &options)
    }

    #[test]
    fn python_idioms_of_published_templates_work() {
        let source = "{{ bos_token }}{% set ns = namespace(n=0) %}
{%- for m in messages %}
    {%- if m.role == 'system' %}{% continue %}{% endif %}
    {%- set ns.n = ns.n + 1 %}
    {%- if '</think>' in m['content'] %}
        {{- m['content'].split('</think>')[-1].lstrip('\\n') }}
    {%- elif m.content.startswith('a') and m['tool_calls'] is not defined %}
        {{- '[' + m.content | trim + ']' }}
    {%- endif %}
{%- endfor %}
{{- ns.n }}{{ messages[::-1][0].role }}{{ tools is none }}";
        let messages = [
            Message::new("system", "x"),
            Message::new("user", "a b "),
            Message::new("assistant", "<think>no</think>\n\nyes"),
        ];
        let text = render(source, &messages).expect("the template is sound");
        assert_eq!(text, "<s>[a b]yes2assistantTrue");
    }

    #[test]
    fn blocks_leave_no_blank_lines() {
        let text = render("a\n    {% if true %}\nb\n    {% endif %}\nc", &[]);
        assert_eq!(text.expect("sound"), "a\nb\nc");
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let mut message = Message::new("user", "é<b>");
        message.extra.insert("z".into(), serde_json::json!({"b": [1, 2.5], "a": null}));
        let messages = [message];
        let one = render("{{ messages[0] | tojson }}", &messages).expect("sound");
        let expected = r#"{"role": "user", "content": "é<b>", "z": {"b": [1, 2.5], "a": null}}"#;
        assert_eq!(one, expected);
        let ascii = render("{{ messages[0].content | tojson(ensure_ascii=true) }}", &messages);
        assert_eq!(ascii.expect("sound"), r#""\u00e9<b>""#);
        let deep = render("{{ messages[0].z | tojson(indent=2) }}", &messages).expect("sound");
        assert_eq!(deep, "{\n  \"b\": [\n    1,\n    2.5\n  ],\n  \"a\": null\n}");
    }

    #[test]
    fn expressions_without_end_are_refused() {
        let many = |begin: &str, again: &str, end: &str| {
            format!("one\n{begin}{}{end}", again.repeat(100_000))
        };
        for source in [
            many("{{ ", "-\n", "1 }}"),
            many("{{ ", "not\n", "1 }}"),
            many("{{ 1", "\n+ 1", " }}"),
            many("{{ a", "\n.b", " }}"),
            many("{{ a", "\n()", " }}"),
            many("{{ a", "\n|upper", " }}"),
            many("{{ {'x': {}} ~ 1", "\n~ 1", " }}"),
            many("{% set a = {'x': {}}", "\nand 1", " %}"),
            many("{% if a %}", "\n{% elif b %}", "{% endif %}"),
        ] {
            let error = render(&source, &[]).expect_err("too long");
            assert_eq!(error.code(), "E0606", "{error}");
        }
        let fits = format!("{{{{ 1{} }}}}", " + 1".repeat(400));
        assert_eq!(render(&fits, &[]).expect("short enough"), "401");
    }

    #[test]
    fn values_in_values_in_values_are_printed_and_freed() {
        let source = "{% set ns = namespace(a=[]) %}{% for i in range(20000) %}\
                      {% set ns.a = [ns.a] %}{% endfor %}{{ ns.a }}{{ ns.a | tojson }}";
        assert_eq!(render(source, &[]).expect("it ends").len(), 4 * 20_001);
    }

    #[test]
    fn errors_name_the_line() {
        let raised = render("one\ntwo\n{{ raise_exception('roles must alternate') }}", &[]);
        let error = raised.expect_err("it raises");
        assert_eq!(error.code(), "E0606");
        let text = error.to_string();
        assert!(text.starts_with("chat template, line 3: "), "{text}");
        assert!(text.ends_with("roles must alternate"), "{text}");
        let unparsable = render("one\n{% if %}", &[]).expect_err("it does not parse");
        assert!(unparsable.to_string().starts_with("chat template, line 2: "), "{unparsable}");
        let bad_time = render("{{ strftime_now('%!') }}", &[]).expect_err("no such directive");
        assert_eq!(bad_time.code(), "E0606");
    }

    #[test]
    fn a_template_that_loops_is_stopped() {
        let source = "{% for a in range(9999) %}\n{% for b in range(9999) %}\n\
                      {% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
        let template = ChatTemplate::new(source, vec![]).expect("it parses").with_fuel(100_000);
        let error = template.render(&[], &ChatOptions::default()).expect_err("it loops");
        let GenerateError::EndlessTemplate { line: Some(1..=3), limit } = error else {
            panic!("{error}");
        };
        assert_eq!(limit, "100000 operations");
    }

    #[test]
    fn a_template_that_doubles_a_value_is_stopped() {
        let source = "{% set ns = namespace(a='ab') %}{% for i in range(60) %}\
                      {% set ns.a = ns.a ~ ns.a %}{% endfor %}{{ ns.a | length }}";
        let error = render(source, &[]).expect_err("2^61 bytes").to_string();
        assert_eq!(error, "chat template: stopped after 256 MiB of memory");
    }

    #[test]
    fn what_the_engine_does_not_survive_is_refused() {
        let own = render("{% set ns = namespace() %}\n{% set ns.a = ns %}{{ ns }}", &[]);
        let own = own.expect_err("a value without end").to_string();
        assert!(own.starts_with("chat template, line 2: "), "{own}");
        let long = format!("\n{{{{ {}1 }}}}", "not ".repeat(1 << 14));
        let long = render(&long, &[]).expect_err("a long line").to_string();
        assert!(long.starts_with("chat template, line 2: "), "{long}");
    }

    #[test]
    fn json_of_json_does_not_take_all_memory() {
        let source = format!("{{{{ '\"' {}}}}}", "| tojson ".repeat(60));
        let mut template = ChatTemplate::new(&source, vec![]).expect("sound");
        // So little that a slow build meets it long before its time is over.
        template.limits.memory = 1 << 22;
        let error = template.render(&[], &ChatOptions::default()).expect_err("2^60 bytes");
        assert_eq!(error.code(), "E0607");
        assert!(error.to_string().contains("4 MiB of memory"), "{error}");
    }

    #[test]
    fn tags_that_are_none_are_left_to_the_engine() {
        for source in ["{%}", "{%", "a{%}b%}", "{%%}"] {
            assert_eq!(render(source, &[]).expect_err(source).code(), "E0606");
        }
    }

    #[test]
    fn the_date_can_be_asked_for() {
        let text = render("{{ strftime_now('%Y-%m-%d') }}", &[]).expect("sound");
        assert_eq!(text.len(), 10);
        assert!(text.starts_with("20"), "{text}");
    }

    #[test]
    fn marks_for_training_change_nothing() {
        let source = "a {%- generation -%} b {% endgeneration %}{% if true %}c{% endif %}";
        assert_eq!(render(source, &[]).expect("sound"), "ab c");
    }

    #[test]
    fn named_templates_and_files_are_found() {
        let config = br#"{"chat_template": [{"name": "tool_use", "template": "t"},
            {"name": "default", "template": "d{{ bos_token }}"}], "bos_token": "B"}"#;
        let options = ChatOptions::default();
        let named = ChatTemplate::from_config(Some(config), None).expect("there is a default");
        assert_eq!(named.render(&[], &options).expect("sound"), "dB");
        let file = ChatTemplate::from_config(Some(config), Some(b"f")).expect("a file");
        assert_eq!(file.render(&[], &options).expect("sound"), "f");
        let none = ChatTemplate::from_config(Some(b"{}"), None);
        assert!(matches!(none, Err(GenerateError::NoChatTemplate)));
    }
}

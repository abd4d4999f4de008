//! Namespaces of a template that would hold themselves.
//!
//! `{% set ns.a = ns %}` makes a value without end, and whatever prints or compares it does not
//! come back. The template engine does not notice, so such templates are found by their text: a
//! name that may stand for a namespace must not stand alone in what an attribute is set to.

use crate::tags::{Tag, Token};
use std::collections::BTreeSet;

/// What makes a namespace.
const MAKER: &str = "namespace";

/// Names that may stand for namespaces.
#[derive(Default)]
struct Names<'a> {
    /// Set to `namespace(..)`: their attributes are none.
    made: BTreeSet<&'a str>,
    /// Set to something that has one in it: so may their attributes.
    holding: BTreeSet<&'a str>,
}

/// The line on which a namespace is set to hold one, if there is one.
pub(crate) fn held(tags: &[Tag<'_>]) -> Option<usize> {
    let mut names = Names::default();
    loop {
        let known = names.made.len() + names.holding.len();
        tags.iter().for_each(|tag| names.learn(&tag.tokens, tags));
        if names.made.len() + names.holding.len() == known {
            break;
        }
    }
    let bad = |tag: &&Tag<'_>| match assigned(&tag.tokens) {
        Some((target, value)) => target.contains(&Token::Sign('.')) && names.stand_in(value),
        None => false,
    };
    tags.iter().find(bad).map(|tag| tag.line)
}

/// What a `set` sets, and to what.
fn assigned<'t, 'a>(tokens: &'t [Token<'a>]) -> Option<(&'t [Token<'a>], &'t [Token<'a>])> {
    let rest = tokens.strip_prefix(&[Token::Word("set")])?;
    let at = rest.iter().position(|t| *t == Token::Sign('='))?;
    Some((&rest[..at], &rest[at + 1..]))
}

fn words<'t, 'a>(tokens: &'t [Token<'a>]) -> impl Iterator<Item = &'a str> + 't {
    tokens.iter().filter_map(|t| if let Token::Word(word) = t { Some(*word) } else { None })
}

impl<'a> Names<'a> {
    /// Whether a namespace, or what has one in it, may come out of an expression.
    fn stand_in(&self, value: &[Token<'a>]) -> bool {
        value.iter().enumerate().any(|(at, token)| {
            let Token::Word(word) = token else { return false };
            let attribute = at > 0 && value[at - 1] == Token::Sign('.');
            let looked_into =
                matches!(value.get(at + 1), Some(Token::Sign('.') | Token::Sign('[')));
            let made = (self.made.contains(word) || *word == MAKER) && !looked_into;
            !attribute && (made || self.holding.contains(word))
        })
    }

    /// Takes up the names that a tag gives to namespaces.
    fn learn(&mut self, tokens: &[Token<'a>], tags: &[Tag<'a>]) {
        if let Some((target, value)) = assigned(tokens) {
            let made = value.starts_with(&[Token::Word(MAKER), Token::Sign('(')]);
            let plain = made && !self.stand_in(&value[1..]);
            match target {
                [Token::Word(name)] if plain => drop(self.made.insert(name)),
                _ if self.stand_in(value) => self.holding.extend(words(target)),
                _ => {}
            }
            return;
        }
        if !self.stand_in(tokens) {
            return;
        }
        match tokens.first() {
            Some(Token::Word("for")) => {
                let at = tokens.iter().position(|t| *t == Token::Word("in"));
                self.holding.extend(words(&tokens[1..at.unwrap_or(1).max(1)]));
                self.holding.insert("loop");
            }
            Some(Token::Word("if" | "elif")) => {}
            // It may be an argument of a macro: of which is not asked.
            _ => {
                let head = |tag: &&Tag<'a>| tag.tokens.first() == Some(&Token::Word("macro"));
                let named = tags.iter().filter(head).flat_map(|tag| words(&tag.tokens).skip(2));
                self.holding.extend(named);
                if matches!(tokens.first(), Some(Token::Word("with" | "call"))) {
                    self.holding.extend(words(&tokens[1..]));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::tags::tags;

    fn held(source: &str) -> Option<usize> {
        super::held(&tags(source))
    }

    #[test]
    fn namespaces_that_may_hold_themselves_are_found() {
        let make = "{% set ns = namespace(a=1) %}\n";
        for bad in [
            "{%- set ns.a = ns %}",
            "{% set ns.a = [1, ns] %}",
            "{% set m = ns %}{% set m.a = m %}",
            "{% set d = {'k': ns} %}{% set ns.a = d.k %}",
            "{% for x in [ns] %}{% set x.a = x %}{% endfor %}",
            "{% for x in [ns, 1] %}{% set ns.a = loop.previtem %}{% endfor %}",
            "{% macro f(p, q=1) %}{% set p.a = p %}{% endmacro %}{{ f(ns) }}",
            "{% set ns.a = '%}' ~ \"}}\" or ns %}",
            "{% set ns.a = namespace() %}",
            "{% with x = ns %}{% set ns.a = x %}{% endwith %}",
        ] {
            assert_eq!(held(&format!("{make}{bad}")), Some(2), "{bad}");
        }
    }

    #[test]
    fn what_templates_do_is_left_alone() {
        let source = "{% set ns = namespace(n=0, text='ns') %}{% set other = namespace() %}
{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.text = ns['text'] ~ 'ns' %}
{% set other.m = m %}{% set other.ns = messages[ns.n].ns %}{% endfor %}
{% if ns and ns.n > 0 %}{{ ns.text }}{% endif %}{% set x = other.m.content %}
{% macro f(p) %}{% set other.q = m %}{{ p.text }}{% endmacro %}{{ f(ns) }}";
        assert_eq!(held(source), None);
        for odd in ["", "{%", "{{", "{%}", "{% set ", "{% set a. = '", "{% set = %}", "{% for %}"] {
            assert_eq!(held(odd), None, "{odd}");
        }
    }
}

//! The escaping of keys and hosts inside owner hashes: only `%`, `@` and `#`, so that ordinary
//! names still read plainly, and only one spelling, so that a text has one meaning.

use std::borrow::Cow;

/// Replaces the three characters that would make an owner hash ambiguous.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '@', '#']) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '%' => escaped.push_str("%25"),
            '@' => escaped.push_str("%40"),
            '#' => escaped.push_str("%23"),
            other => escaped.push(other),
        }
    }
    Cow::Owned(escaped)
}

/// The exact inverse of [`escape`]: `None` for every text that it does not produce.
pub(super) fn unescape(text: &str) -> Option<Cow<'_, str>> {
    if text.contains(['@', '#']) {
        return None;
    }
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        plain.push_str(before);
        plain.push(match after.get(..2)? {
            "25" => '%',
            "40" => '@',
            "23" => '#',
            _ => return None,
        });
        rest = &after[2..];
    }
    plain.push_str(rest);
    Some(Cow::Owned(plain))
}

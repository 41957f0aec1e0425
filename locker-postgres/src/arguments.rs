//! From the values of the contract to the values of the server, bound or written.

use crate::error::{self, Stage};
use locker_core::backend::Claim;
use locker_core::{BackendError, OwnerHash, StoreTime};
use sqlx::Arguments;
use sqlx::postgres::PgArguments;
use std::fmt::Write;
use std::time::Duration;

/// The longest time that is added to the clock: what is longer is for ever, and must not overflow.
const FOR_EVER: i64 = i64::MAX / 4;

/// One argument of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Text(Option<String>),
    Texts(Vec<String>),
    Number(i64),
    Numbers(Vec<i64>),
    Small(i32),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.to_owned()))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

/// Binds the arguments of one call.
///
/// # Errors
///
/// `Rejected, NotApplied` for what the server has no form for.
pub(crate) fn bind(values: Vec<Value>) -> Result<PgArguments, BackendError> {
    let mut arguments = PgArguments::default();
    for value in values {
        let bound = match value {
            Value::Text(text) => arguments.add(text),
            Value::Texts(texts) => arguments.add(texts),
            Value::Number(number) => arguments.add(number),
            Value::Numbers(numbers) => arguments.add(numbers),
            Value::Small(number) => arguments.add(number),
        };
        bound.map_err(|cause| error::from_sqlx(sqlx::Error::Encode(cause), Stage::Opening))?;
    }
    Ok(arguments)
}

impl Value {
    /// The value as a text of SQL. It is for connections through a pooler, which may carry what is
    /// prepared and what is bound to two different sessions; a plain text arrives whole.
    ///
    /// Whatever a text contains, only hexadecimal digits stand between the quotes, so there is
    /// nothing to escape, under any setting of the server.
    pub(crate) fn literal(&self) -> String {
        match self {
            Self::Text(None) => "NULL::text".to_owned(),
            Self::Text(Some(text)) => text_literal(text),
            Self::Texts(texts) => array(texts.iter().map(|text| text_literal(text)), "text"),
            Self::Number(number) => format!("({number})::bigint"),
            Self::Numbers(numbers) => {
                array(numbers.iter().map(|number| format!("({number})")), "bigint")
            }
            Self::Small(number) => format!("({number})::integer"),
        }
    }
}

fn text_literal(text: &str) -> String {
    let mut literal = String::with_capacity(2 * text.len() + 40);
    literal.push_str("convert_from(decode('");
    for byte in text.bytes() {
        // Writing to a string cannot fail.
        let _ = write!(literal, "{byte:02x}");
    }
    literal.push_str("','hex'),'UTF8')");
    literal
}

fn array(items: impl Iterator<Item = String>, of: &str) -> String {
    let items: Vec<String> = items.collect();
    format!("ARRAY[{}]::{of}[]", items.join(","))
}

/// The columns of many claims.
pub(crate) fn claims(claims: &[&Claim]) -> Vec<Value> {
    let texts = |of: fn(&Claim) -> &str| {
        Value::Texts(claims.iter().map(|claim| of(claim).to_owned()).collect())
    };
    let numbers =
        |of: fn(&Claim) -> i64| Value::Numbers(claims.iter().map(|claim| of(claim)).collect());
    vec![
        texts(|claim| claim.key().as_str()),
        texts(|claim| claim.owner.as_str()),
        texts(|claim| claim.owner.process().as_str()),
        numbers(|claim| micros(claim.ttl)),
        numbers(|claim| deadline(claim.not_after)),
    ]
}

/// The columns of many owners.
pub(crate) fn owners(owners: &[&OwnerHash]) -> Vec<Value> {
    let texts = |of: fn(&OwnerHash) -> &str| {
        Value::Texts(owners.iter().map(|owner| of(owner).to_owned()).collect())
    };
    vec![
        texts(|owner| owner.key().as_str()),
        texts(OwnerHash::as_str),
    ]
}

/// Microseconds; what is shorter counts as one.
pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).map_or(FOR_EVER, |micros| micros.clamp(1, FOR_EVER))
}

pub(crate) fn deadline(time: StoreTime) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_overflows_the_clock() {
        for long in [Duration::MAX, Duration::from_secs(u64::MAX / 1_000_000)] {
            assert!(i64::MAX / 2 + micros(long) > 0);
        }
        assert_eq!(micros(Duration::from_nanos(1)), 1);
        assert_eq!(micros(Duration::from_millis(3)), 3_000);
        assert_eq!(deadline(StoreTime::from_micros(u64::MAX)), i64::MAX);
    }

    /// Whatever is written, nothing of it can end the literal.
    #[test]
    fn a_literal_holds_digits_and_nothing_of_the_text() {
        for text in ["", "k", "'; DROP TABLE locks; --", "\\", "\u{1f512}\n\"$1"] {
            let literal = Value::from(text).literal();
            let inner = literal
                .strip_prefix("convert_from(decode('")
                .and_then(|rest| rest.strip_suffix("','hex'),'UTF8')"))
                .expect("one form for every text");
            assert!(
                inner.bytes().all(|byte| byte.is_ascii_hexdigit()),
                "{literal}"
            );
            assert_eq!(inner.len(), 2 * text.len());
        }
        let several = Value::Texts(vec![]).literal() + &Value::Numbers(vec![i64::MIN, 7]).literal();
        assert_eq!(
            several,
            "ARRAY[]::text[]ARRAY[(-9223372036854775808),(7)]::bigint[]"
        );
    }
}

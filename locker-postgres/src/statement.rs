//! The statements: calls of the locker's functions, with every value bound.
//!
//! The only text of ours that varies is the name of the schema, which no protocol can bind. It is
//! quoted here, and nowhere else. (Behind a pooler the values cannot be bound either: see
//! [`Value::literal`].)

use crate::arguments::Value;
use crate::error;
use locker_core::{BackendError, ErrorKind};
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};
use std::fmt;
use std::sync::Arc;

/// The longest name that the server keeps; longer ones it would silently cut.
const NAME_LIMIT: usize = 63;

/// The schema of a locker: its namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Schema {
    name: Box<str>,
    quoted: Box<str>,
}

impl Schema {
    /// The schema of this name.
    ///
    /// # Errors
    ///
    /// `Config` when no schema can have it.
    pub(crate) fn new(name: &str) -> Result<Self, BackendError> {
        let why = if name.is_empty() {
            "it is empty"
        } else if name.len() > NAME_LIMIT {
            "it has more than 63 bytes"
        } else if name.contains('\0') {
            "it has a NUL byte"
        } else if name.starts_with("pg_") {
            "names that begin with pg_ belong to the server"
        } else {
            return Ok(Self {
                name: name.into(),
                quoted: format!("\"{}\"", name.replace('"', "\"\"")).into(),
            });
        };
        let shown: String = name.chars().take(80).collect();
        let error = error::config(format!("the namespace {shown:?} cannot be a schema: {why}"));
        debug_assert_eq!(error.kind(), ErrorKind::Config);
        Err(error)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The channel of its hints: a hash, because the server refuses names of more than 63 bytes.
    pub(crate) fn channel(&self) -> String {
        // FNV-1a: any function will do, as long as every release has the same.
        let hash = self
            .name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        format!("locker_{hash:016x}")
    }

    /// A statement in which `{schema}` stands for the name.
    pub(crate) fn sql(&self, text: &str) -> SqlStr {
        sql(text.replace("{schema}", &self.quoted))
    }
}

fn sql(text: String) -> SqlStr {
    AssertSqlSafe(Arc::<str>::from(text)).into_sql_str()
}

/// Shown as SQL would write it.
impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.quoted)
    }
}

/// A call of one function.
#[derive(Debug)]
pub(crate) struct Statement {
    /// Up to the arguments.
    head: Box<str>,
    bound: SqlStr,
}

impl Statement {
    fn new(schema: &Schema, function: &str, arity: usize) -> Self {
        let head = format!("SELECT * FROM {schema}.{function}(");
        let places: Vec<String> = (1..=arity).map(|place| format!("${place}")).collect();
        let bound = sql(format!("{head}{})", places.join(", ")));
        Self {
            head: head.into(),
            bound,
        }
    }

    /// With a place for each argument, to be prepared once and bound each time.
    pub(crate) fn bound(&self) -> SqlStr {
        self.bound.clone()
    }

    /// With the arguments in it.
    pub(crate) fn written(&self, arguments: &[Value]) -> SqlStr {
        let literals: Vec<String> = arguments.iter().map(Value::literal).collect();
        sql(format!("{}{})", self.head, literals.join(", ")))
    }
}

/// Which function is called.
pub(crate) type Of = for<'s> fn(&'s Statements) -> &'s Statement;

macro_rules! statements {
    ($($name:ident($arity:literal);)*) => {
        /// Every function that a connection calls. Each call is one request, and one transaction.
        #[derive(Debug)]
        pub(crate) struct Statements {
            $(pub(crate) $name: Statement,)*
        }

        impl Statements {
            pub(crate) fn of(schema: &Schema) -> Self {
                Self { $($name: Statement::new(schema, stringify!($name), $arity),)* }
            }
        }
    };
}

statements! {
    about(0);
    try_create(5);
    take_over(6);
    extend(3);
    standings(2);
    release(2);
    release_and_try_create(7);
    settle(2);
    mark(2);
    read_lock(1);
    list_locks(3);
    create_process(3);
    renew_process(3);
    retire_process(1);
    read_process(1);
    list_processes(2);
    held_by(1);
    wake(2);
    enrol(5);
    withdraw(2);
    go_on_looking(3);
    confirm(3);
    sweep_locks(3);
    sweep_processes(3);
}

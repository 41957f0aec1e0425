//! Kinds of things, and how often each of them happened.

/// Declares an enum whose variants are counted: their names in words, and a table of counts.
macro_rules! counted {
    ($(#[$doc:meta])* $kind:ident, $counts:ident { $($variant:ident => $words:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "the names are shown by `Display`, in words")]
        pub enum $kind { $($variant,)* }

        impl $kind {
            /// Every kind.
            pub const ALL: [Self; [$(Self::$variant),*].len()] = [$(Self::$variant),*];
        }

        impl std::fmt::Display for $kind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(match self { $(Self::$variant => $words,)* })
            }
        }

        /// How often each kind happened.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $counts([u64; $kind::ALL.len()]);

        impl Default for $counts {
            fn default() -> Self {
                Self([0; $kind::ALL.len()])
            }
        }

        impl $counts {
            /// Counts one.
            pub fn count(&mut self, kind: $kind) {
                self.0[kind as usize] += 1;
            }

            /// How often this kind happened.
            pub fn of(&self, kind: $kind) -> u64 {
                self.0[kind as usize]
            }

            /// All together.
            pub fn total(&self) -> u64 {
                self.0.iter().sum()
            }

            /// Adds what another history saw.
            pub fn add(&mut self, other: &Self) {
                for (mine, theirs) in self.0.iter_mut().zip(other.0) {
                    *mine += theirs;
                }
            }

            /// Adds this many of one kind.
            pub fn add_of(&mut self, kind: $kind, count: u64) {
                self.0[kind as usize] += count;
            }
        }
    };
}

pub(super) use counted;

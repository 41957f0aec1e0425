//! What a forked child has of its parent: a copy of everything, and the right to nothing (S8).

/// The process in which something was made.
///
/// Whoever has it looks at it before anything else: a lock may have been held by a thread that does not
/// exist in the child, and what the child wrote to a socket would arrive as its parent's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MadeIn(u32);

impl MadeIn {
    pub(crate) fn this_process() -> Self {
        Self(std::process::id())
    }

    #[cfg(test)]
    pub(crate) fn another_process() -> Self {
        Self(std::process::id() + 1)
    }

    pub(crate) fn pid(self) -> u32 {
        self.0
    }

    /// Whether that is another process: this is a forked child of it.
    pub(crate) fn is_elsewhere(self) -> bool {
        std::process::id() != self.0
    }
}

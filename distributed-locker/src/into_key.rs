//! What a caller may give as the key of a lock.

use locker_core::{InvalidIdentity, Key};

/// What names a lock: a [`Key`], a text (`&str`, `String`, `&String`), and whatever else can be
/// turned into a key by [`TryInto`].
///
/// A key has 1 to 512 bytes of UTF-8 without NUL; any other text is refused without asking the store.
pub trait IntoKey: sealed::Sealed {
    #[doc(hidden)]
    fn into_key(self) -> Result<Key, InvalidIdentity>;
}

impl<K> IntoKey for K
where
    K: TryInto<Key, Error: Into<InvalidIdentity>>,
{
    fn into_key(self) -> Result<Key, InvalidIdentity> {
        self.try_into().map_err(Into::into)
    }
}

mod sealed {
    use super::{InvalidIdentity, Key};

    pub trait Sealed {}

    impl<K> Sealed for K where K: TryInto<Key, Error: Into<InvalidIdentity>> {}
}

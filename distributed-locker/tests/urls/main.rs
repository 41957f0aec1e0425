//! Addresses of stores that nobody would write, or that somebody has written wrong. They are those of
//! the stores that are compiled in.

mod entry;

use distributed_locker::schemes;
use proptest::prelude::*;

/// What a password is cut into by an `@` and a `/`, or a `?`, that nobody escaped: a host, and the name of
/// a database, of a server or of a parameter.
#[test]
fn the_rest_of_a_password_is_no_name_of_anything() {
    for scheme in schemes().filter(|scheme| *scheme != "sqlite") {
        for middle in [
            "@h/", "@h?", "@h#", "@h/db?", "@h/db#", "/", "?", "#", ":1/",
        ] {
            entry::with_password(scheme, middle, "localhost/db");
        }
    }
}

fn scheme() -> impl Strategy<Value = &'static str> {
    // The embedded store has no password.
    let schemes: Vec<_> = schemes().filter(|scheme| *scheme != "sqlite").collect();
    proptest::sample::select(schemes)
}

fn rest() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("localhost".to_owned()),
        Just("[::1]".to_owned()),
        "[,:/?&=@#%\\[\\]]{1,2}",
        ":[0-9]{0,6}",
        "/[a-z0-9]{0,4}",
        "[?&](ca|cert|key|sslmode|crash_detection|sentinel_password|x)=[a-z/%]{0,4}",
        "%[0-9A-Fa-f]{0,2}",
        "\\PC{0,4}",
    ];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text_is_an_address_or_a_typed_error(
        scheme in proptest::sample::select(schemes().collect::<Vec<_>>()),
        colon in "(:|://|:/|)", rest in rest(), text in "\\PC{0,20}",
    ) {
        entry::address(&text);
        entry::address(&format!("{scheme}{colon}{rest}"));
    }

    #[test]
    fn a_password_that_nobody_escaped_is_never_printed(
        scheme in scheme(), middle in "[,:/?&=@#% \\[\\]a0]{0,3}", rest in rest(),
    ) {
        entry::with_password(scheme, &middle, &rest);
    }
}

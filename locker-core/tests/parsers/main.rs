//! The parsers of identities and records, on texts that nobody would write.

mod entry;

use proptest::prelude::*;

/// Texts that look like an owner's or a process's, and are perhaps one: pieces of the grammar in any
/// order, and real ones with a character too many or too few.
fn almost() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[@#%./]{1,2}",
        "[0-9]{1,40}",
        "%[0-9A-Fa-f]{0,2}",
        "[a-z\u{0}\u{fffd}-]{1,4}",
        Just("k@web-1/4711.99.1".to_owned()),
        Just("web-1/4711.340282366920938463463374607431768211455".to_owned()),
        "\\PC{0,600}",
    ];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn owner() -> impl Strategy<Value = (String, String)> {
    ("[a-z@#%é]{1,8}", "[a-z%/.]{1,8}", any::<(u32, u128, u64)>()).prop_map(
        |(key, host, (pid, nonce, seq))| {
            let name = locker_core::Key::new(&key).expect("a short text");
            let host = locker_core::Host::new(&host).expect("a short text");
            let process = locker_core::ProcessHash::new(&host, pid, nonce);
            let owner = locker_core::OwnerHash::new(&name, &process, seq, None);
            (key, owner.as_str().to_owned())
        },
    )
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![any::<i64>(), -2_i64..3, Just(i64::MAX), Just(i64::MIN)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn an_identity_is_read_from_the_one_text_that_it_prints(text in almost()) {
        entry::identity(&text);
    }

    #[test]
    fn one_character_makes_another_identity_or_none(
        (_, mut text) in owner(), place in any::<prop::sample::Index>(), with in any::<char>(),
        insert in any::<bool>(),
    ) {
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        let at = *place.get(&places);
        if !insert {
            text.remove(at);
        }
        text.insert(at, with);
        entry::identity(&text);
    }

    #[test]
    fn a_record_is_its_owners_or_nobodys(
        (key, owner) in owner(), other in almost(), numbers in [number(), number(), number(), number()],
        spoil in 0..4_u8,
    ) {
        match spoil {
            0 => entry::record(&key, &other, numbers),
            1 => entry::record(&other, &owner, numbers),
            _ => entry::record(&key, &owner, [1, numbers[1], numbers[2], numbers[3]]),
        }
    }
}

//! The list of cases is what its documentation says.

use locker_testkit::CASES;
use std::collections::BTreeSet;

#[test]
fn the_list_is_long_and_every_case_is_in_it_once() {
    let names: BTreeSet<&str> = CASES.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), CASES.len(), "a case is listed twice");
    assert!(names.len() >= 45, "only {} cases are left", names.len());
}

/// A case that was written and not listed would never run.
#[test]
fn every_case_that_is_written_is_listed() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cases");
    let mut written = BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("the sources are there") {
        let path = entry.expect("the folder can be read").path();
        let theme = path.file_stem().expect("a source has a name");
        let theme = theme
            .to_str()
            .expect("a source has a readable name")
            .to_owned();
        let source = std::fs::read_to_string(&path).expect("a source can be read");
        for line in source.lines() {
            let name = line
                .strip_prefix("pub async fn ")
                .and_then(|rest| rest.strip_suffix("(case: Case) {"));
            written.extend(name.map(|name| format!("{theme}::{name}")));
        }
    }
    let listed: BTreeSet<String> = CASES.iter().map(|case| case.name.to_owned()).collect();
    assert_eq!(written, listed);
}

/// One idea per file, and a case says which promise it is about.
#[test]
fn the_names_are_sentences() {
    for case in CASES {
        let (_, name) = case.name.split_once("::").expect("theme and name");
        assert!(name.split('_').count() >= 3, "{name} is no sentence");
    }
}

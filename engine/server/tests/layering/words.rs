//! Names of items use the words of the glossary in ARCHITECTURE.md, and none that it has retired.
//!
//! Test code does not count.

use crate::source::{Token, tokens};
use crate::{crate_folders, root};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Words that no item's name contains, in snake_case or CamelCase: verbs that the glossary has replaced, and their forms.
#[rustfmt::skip]
const RETIRED_WORDS: &[&str] = &[
    "ask", "asked", "asking", "asks", "breathe", "cut", "cuts", "farewell", "forgive", "gave", "give", "gives", "given",
    "gone", "kept", "lingering", "owing", "poke", "retire", "retired", "room", "rooms", "said", "say", "saying", "says",
    "seal", "sealed", "sealing", "seals", "shed", "shelf", "shelves", "stand", "stands", "stood", "tell", "telling",
    "tells", "told", "untold", "whatever", "whoever",
];

/// Words that are no name of a type by themselves: they say what happened to a value, not what it is.
#[rustfmt::skip]
const RETIRED_TYPES: &[&str] = &[
    "About", "Begun", "Behind", "Border", "Built", "Finding", "Following", "Found", "Framed", "Go", "Guarded", "Halt",
    "Holder", "Home", "Judge", "Keeper", "Known", "Middle", "News", "Outward", "Piece", "Pieces", "Place", "Placed",
    "Places", "Placing", "Prepared", "Reached", "Received", "Refused", "Running", "Settled", "Stanza", "Surface", "Talk",
    "Terms", "Turns", "Waiting", "Walk", "Walked", "Walker", "Wanted", "Ways", "Written",
];

/// The words of a name: `take_closed` and `TakeClosed` have "take" and "closed".
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for character in name.chars() {
        if character == '_' || character.is_uppercase() && was_lower {
            words.push(String::new());
        }
        if character != '_' {
            words.last_mut().expect("never empty").extend(character.to_lowercase());
        }
        was_lower = character.is_lowercase() || character.is_ascii_digit();
    }
    words
}

fn is_retired(name: &str) -> bool {
    RETIRED_TYPES.contains(&name) || words(name).iter().any(|word| RETIRED_WORDS.contains(&word.as_str()))
}

/// Names of the items that `tokens` declare.
fn item_names(tokens: &[Token]) -> impl Iterator<Item = &str> {
    const KEYWORDS: [&str; 9] = ["struct", "enum", "union", "trait", "type", "fn", "mod", "const", "static"];
    tokens.windows(2).filter_map(|pair| {
        let declares = pair[0].word().is_some_and(|word| KEYWORDS.contains(&word));
        pair[1].word().filter(|_| declares)
    })
}

fn source_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        // Files that only tests include.
        if path.file_stem().is_some_and(|name| name == "tests") {
            continue;
        }
        match path.is_dir() {
            true => source_files(&path, files),
            false if path.extension().is_some_and(|extension| extension == "rs") => files.push(path),
            false => {}
        }
    }
}

type NamesOfCrates = BTreeSet<(String, String)>;

fn retired_names() -> NamesOfCrates {
    let mut found = BTreeSet::new();
    for folder in crate_folders() {
        let mut files = Vec::new();
        source_files(&root().join(&folder).join("src"), &mut files);
        assert!(!files.is_empty(), "{folder} has no source");
        for file in files {
            let tokens = tokens(&std::fs::read_to_string(file).unwrap());
            found.extend(
                item_names(&tokens).filter(|name| is_retired(name)).map(|name| (folder.clone(), name.to_owned())),
            );
        }
    }
    found
}

#[test]
fn retired_words_do_not_come_back() {
    let found = retired_names();
    let lines: String = found.iter().map(|(folder, name)| format!("    {folder}: {name}\n")).collect();
    assert!(found.is_empty(), "names with a retired word; choose a word of the glossary in ARCHITECTURE.md:\n{lines}");
}

#[test]
fn names_are_split_into_words() {
    for (name, want) in [
        ("ask_with_older", &["ask", "with", "older"][..]),
        ("MeetingRoom", &["meeting", "room"]),
        ("TASK_COUNT", &["task", "count"]),
        ("Rfc3339Text", &["rfc3339", "text"]),
    ] {
        assert_eq!(words(name), want);
    }
    assert!(is_retired("Told") && is_retired("ask_core") && is_retired("Place"));
    assert!(!is_retired("placement") && !is_retired("TaskQueue") && !is_retired("LogKeeper"));
}

#[test]
fn declared_names_are_found() {
    let tokens = tokens("pub struct Told<T>; impl Told { const fn ask() {} } // fn said()\n let x = ask_other();");
    assert_eq!(item_names(&tokens).filter(|name| is_retired(name)).collect::<Vec<_>>(), ["Told", "ask"]);
}

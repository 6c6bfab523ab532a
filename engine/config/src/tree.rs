//! Plain data as a configuration file has it, and how it is printed as YAML.

use crate::yaml::plain_tag;
use std::fmt::Write;

/// Plain data as it stands in a file. Public, because free-form parts of a configuration are kept so.
#[derive(Clone, Debug, PartialEq)]
pub enum Tree {
    /// Text that needs quotes if it looks like something else.
    Text(String),
    /// A number, boolean, duration or the like, printed as it is.
    Plain(String),
    /// Items in order.
    List(Vec<Tree>),
    /// Keys, each once, with their values.
    Map(Vec<(String, Tree)>),
}

/// Prints plain data as a YAML document.
pub(crate) fn print(tree: &Tree) -> String {
    let mut out = String::new();
    match tree {
        Tree::Map(entries) if entries.is_empty() => out.push_str("{}\n"),
        Tree::Map(entries) => print_map(&mut out, entries, 0),
        Tree::List(items) => print_list(&mut out, items, 0),
        Tree::Plain(_) | Tree::Text(_) => print_value(&mut out, tree, 0),
    }
    out
}

fn print_map(out: &mut String, entries: &[(String, Tree)], indent: usize) {
    for (index, (key, value)) in entries.iter().enumerate() {
        // The first key of a list item stands behind its dash.
        if index > 0 || !out.ends_with("- ") {
            out.extend(std::iter::repeat_n(' ', indent));
        }
        print_text(out, key);
        out.push(':');
        print_value(out, value, indent);
    }
}

fn print_list(out: &mut String, items: &[Tree], indent: usize) {
    for item in items {
        out.extend(std::iter::repeat_n(' ', indent));
        match item {
            Tree::Map(entries) if !entries.is_empty() => {
                out.push_str("- ");
                print_map(out, entries, indent + 2);
            }
            _ => {
                out.push('-');
                print_value(out, item, indent + 2);
            }
        }
    }
}

/// Prints a value after a colon or a dash, up to the end of the line or of the block.
fn print_value(out: &mut String, value: &Tree, indent: usize) {
    match value {
        Tree::Map(entries) if entries.is_empty() => out.push_str(" {}\n"),
        Tree::List(items) if items.is_empty() => out.push_str(" []\n"),
        Tree::Map(entries) => {
            out.push('\n');
            print_map(out, entries, indent + 2);
        }
        // A list is as deep as the key it belongs to, as Go prints it.
        Tree::List(items) => {
            out.push('\n');
            print_list(out, items, indent);
        }
        Tree::Plain(text) => out.extend([" ", text, "\n"]),
        Tree::Text(text) => {
            out.push(' ');
            print_text(out, text);
            out.push('\n');
        }
    }
}

/// Prints a text, in quotes if it could be read as anything else.
fn print_text(out: &mut String, text: &str) {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "_-./$<>+(){}^;=~@".contains(c);
    let is_word = text.starts_with(|c: char| c.is_ascii_alphabetic() || "_/.$<(^".contains(c))
        && text.chars().all(is_safe)
        && plain_tag(text) == "!!str"
        && !matches!(
            text,
            "null" | "Null" | "NULL" | "<<" | "..." | ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN"
        );
    if is_word {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || c == '\u{feff}' || ('\u{2028}'..='\u{2029}').contains(&c) => {
                write!(out, "\\U{:08X}", u32::from(c)).expect("writing into a String does not fail");
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

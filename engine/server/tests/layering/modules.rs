//! Modules of one crate do not depend on each other in circles.
//!
//! Siblings are compared: within each module, an edge goes from child A to child B if anything in A's files names
//! something in B's. A re-export counts as its origin. What a module and its own children use of each other is not an
//! edge: a parent holds its children. Test code does not count.

use crate::source::{Token, tokens};
use crate::{crate_folders, crate_roots};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

type ModulePath = Vec<String>;

#[derive(Default)]
struct Module {
    tokens: Vec<Token>,
    children: BTreeSet<String>,
    /// Names of this module's `use` trees, and the paths they stand for.
    imports: BTreeMap<String, ModulePath>,
}

#[derive(Default)]
struct Crate {
    modules: BTreeMap<ModulePath, Module>,
}

/// Calls `found` with each path of a `use` tree, or of an expression, that begins at `start`, and with the name it gets.
/// Returns where it ends.
fn paths(tokens: &[Token], start: usize, prefix: &ModulePath, found: &mut impl FnMut(ModulePath, &str)) -> usize {
    let mut path = prefix.clone();
    let mut at = start;
    loop {
        match tokens.get(at) {
            Some(Token::Word(word)) => {
                path.push(word.clone());
                at += 1;
                if tokens.get(at).is_some_and(|token| token.is("::")) {
                    at += 1;
                    continue;
                }
                let renamed = tokens.get(at).is_some_and(|token| token.is("as"));
                let name = if renamed { tokens[at + 1].word().unwrap_or("_") } else { word };
                found(path, name);
                return if renamed { at + 2 } else { at };
            }
            Some(token) if token.is("{") => {
                at += 1;
                while !tokens[at].is("}") {
                    at = paths(tokens, at, &path, found);
                    if tokens[at].is(",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            Some(token) if token.is("*") => {
                found(path, "*");
                return at + 1;
            }
            // `::<`, or what is no path.
            _ => {
                found(path, "_");
                return at.max(start + 1);
            }
        }
    }
}

impl Module {
    fn read(file: &Path) -> Module {
        let tokens =
            tokens(&std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display())));
        Module::from_tokens(tokens)
    }

    fn from_tokens(tokens: Vec<Token>) -> Module {
        let mut module = Module::default();
        for (at, token) in tokens.iter().enumerate() {
            if token.is("mod") && tokens.get(at + 2).is_some_and(|token| token.is(";")) {
                module.children.extend(tokens[at + 1].word().map(str::to_owned));
            }
            if token.is("use") {
                paths(&tokens, at + 1, &Vec::new(), &mut |path, name| {
                    module.imports.insert(name.to_owned(), path);
                });
            }
        }
        module.tokens = tokens;
        module
    }
}

impl Crate {
    fn read(crate_root: &Path) -> Crate {
        let mut all = Crate::default();
        all.add(Vec::new(), crate_root, crate_root.parent().unwrap());
        all
    }

    fn add(&mut self, path: ModulePath, file: &Path, children_folder: &Path) {
        let module = Module::read(file);
        for name in &module.children {
            let (flat, nested) =
                (children_folder.join(format!("{name}.rs")), children_folder.join(name).join("mod.rs"));
            let file = if flat.is_file() { flat } else { nested };
            self.add([path.clone(), vec![name.clone()]].concat(), &file, &children_folder.join(name));
        }
        self.modules.insert(path, module);
    }

    /// The module that `path`, written in module `from`, leads to; none if it leaves the crate.
    fn resolve(&self, from: &ModulePath, path: &[String], depth: usize) -> Option<ModulePath> {
        const DEPTH_MAX: usize = 8;
        let mut module = from.clone();
        let mut rest = path;
        let mut is_first = true;
        while let Some((segment, behind)) = rest.split_first() {
            match segment.as_str() {
                "crate" => module = Vec::new(),
                "self" => {}
                "super" => drop(module.pop()),
                name => {
                    let here = &self.modules[&module];
                    if here.children.contains(name) {
                        module.push(name.to_owned());
                    } else if let Some(import) = here.imports.get(name)
                        && depth < DEPTH_MAX
                        && import.as_slice() != path
                    {
                        return self.resolve(&module, &[import.as_slice(), behind].concat(), depth + 1);
                    } else {
                        return (!is_first).then_some(module);
                    }
                }
            }
            is_first = false;
            rest = behind;
        }
        Some(module)
    }

    /// Edges between siblings, by parent.
    fn edges(&self) -> BTreeMap<ModulePath, BTreeSet<(String, String)>> {
        let mut edges: BTreeMap<ModulePath, BTreeSet<(String, String)>> = BTreeMap::new();
        for (from, module) in &self.modules {
            for (at, token) in module.tokens.iter().enumerate() {
                let starts_path = at == 0 || !module.tokens[at - 1].is("::") && !module.tokens[at - 1].is("in");
                let in_crate = ["crate", "super", "self"].iter().any(|word| token.is(word));
                let goes_on = module.tokens.get(at + 1).is_some_and(|token| token.is("::"));
                if !starts_path || !in_crate || !goes_on {
                    continue;
                }
                paths(&module.tokens, at, &Vec::new(), &mut |path, _| {
                    let Some(to) = self.resolve(from, &path, 0) else { return };
                    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
                    if let (Some(a), Some(b)) = (from.get(common), to.get(common)) {
                        edges.entry(from[..common].to_vec()).or_default().insert((a.clone(), b.clone()));
                    }
                });
            }
        }
        edges
    }
}

/// Groups of nodes that all reach each other, of two nodes or more.
fn cycles(edges: &BTreeSet<(String, String)>) -> Vec<Vec<String>> {
    let reachable = |start: &str| {
        let mut seen = BTreeSet::new();
        let mut open = vec![start];
        while let Some(node) = open.pop() {
            for (_, to) in edges.iter().filter(|(from, _)| from == node) {
                if seen.insert(to.as_str()) {
                    open.push(to);
                }
            }
        }
        seen
    };
    let nodes: BTreeSet<&str> = edges.iter().flat_map(|(from, to)| [from.as_str(), to.as_str()]).collect();
    let reach: BTreeMap<&str, BTreeSet<&str>> = nodes.iter().map(|node| (*node, reachable(node))).collect();
    let mut groups = BTreeSet::new();
    for (node, reached) in &reach {
        let group: Vec<String> =
            reached.iter().filter(|other| reach[**other].contains(node)).map(|other| (*other).to_owned()).collect();
        if group.len() > 1 {
            groups.insert(group);
        }
    }
    groups.into_iter().collect()
}

/// Cycles of all crates: the crate, the parent module ("" is the crate's root), and the modules in the cycle.
fn all_cycles() -> BTreeSet<(String, String, String)> {
    let mut found = BTreeSet::new();
    for folder in crate_folders() {
        for crate_root in crate_roots(&folder) {
            let name = match crate_root.parent().unwrap().file_name().unwrap().to_str().unwrap() {
                "src" | "bin" => folder.clone(),
                program => format!("{folder} {program}"),
            };
            for (parent, edges) in Crate::read(&crate_root).edges() {
                for cycle in cycles(&edges) {
                    found.insert((name.clone(), parent.join("::"), cycle.join(" ")));
                }
            }
        }
    }
    found
}

#[test]
fn modules_have_no_cycles() {
    let found = all_cycles();
    assert!(found.is_empty(), "modules that use each other, by crate and parent module: {found:#?}");
}

#[cfg(test)]
fn crate_of(modules: &[(&str, &str)]) -> Crate {
    let path = |text: &str| text.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
    Crate { modules: modules.iter().map(|(name, text)| (path(name), Module::from_tokens(tokens(text)))).collect() }
}

#[test]
fn cycle_through_a_reexport_and_a_deep_path_is_found() {
    let made = crate_of(&[
        ("", "mod a; mod b; mod c; pub use a::{Thing, deep::Other as Renamed}; use std::fmt;"),
        ("a", "pub mod deep; use crate::c::Free; pub(crate) struct Thing;"),
        ("a::deep", "fn f() { crate::b::call() } fn g() { super::Thing; super::super::c::x() }"),
        ("b", "use crate::{Renamed, c::*}; use super::fmt;"),
        ("c", "#[cfg(test)] mod tests { use crate::b; } // crate::b\n fn f() { self::x() }"),
    ]);
    let edges = made.edges();
    let want = [("a", "b"), ("a", "c"), ("b", "a"), ("b", "c")];
    assert_eq!(edges[&Vec::new()], want.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect());
    assert_eq!(cycles(&edges[&Vec::new()]), [["a", "b"]]);
    assert_eq!(edges.len(), 1, "what a parent and its children use of each other is no edge");
}

//! A contender file: how to start a program that scrapes, and what it can be asked.
//!
//! Programs are looked up beside this one first (a build of this repository), then on PATH. One that is not there is
//! left out of the comparison and named.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

/// What may stand between braces in arguments and configuration.
const PLACES: [&str; 6] = ["program", "config", "data", "port", "sink_port", "targets"];
/// The counter that says: what the sink has received counts.
pub const SINK: &str = "sink";

/// One program in one mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contender {
    /// The file's name without its ending, whatever the file says.
    #[serde(default)]
    pub name: String,
    /// For tables and pictures.
    pub title: String,
    /// The program's file name, or its path.
    pub program: String,
    /// Commands that may tell the version; the first line of the first one that says anything is it.
    #[serde(default)]
    pub versions: Vec<Vec<String>>,
    pub arguments: Vec<String>,
    /// Goes below the scrape configuration, say a remote_write section.
    #[serde(default)]
    pub config: String,
    /// Answers 200 when the program can be used.
    pub ready: String,
    /// The counter on /metrics of the samples that it has taken, or "sink".
    pub counter: String,
    /// Samples that it adds to each scrape by itself, at most: `up` and its kin.
    #[serde(default = "default_extra")]
    pub extra_samples_max: u64,
    /// Keeps samples and answers queries.
    #[serde(default)]
    pub stores: bool,
    /// Serves /federate.
    #[serde(default)]
    pub federates: bool,
}

fn default_extra() -> u64 {
    12
}

/// What a place between braces stands for in one run.
#[derive(Debug)]
pub struct RunPaths<'a> {
    pub program: &'a Path,
    pub config: &'a Path,
    pub data: &'a Path,
    pub targets: &'a Path,
    pub port: u16,
    pub sink_port: u16,
}

impl Contender {
    /// Reads a file and checks what it says.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading contender {}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&name, &text).with_context(|| format!("contender {}", path.display()))
    }

    /// Reads the text of a file.
    pub fn parse(name: &str, text: &str) -> anyhow::Result<Self> {
        let mut contender: Self = toml::from_str(text)?;
        contender.name = name.to_owned();
        for text in contender.arguments.iter().chain([&contender.config]) {
            check_placeholders(text)?;
        }
        ensure!(contender.ready.starts_with('/'), "ready: \"{}\"; a path such as /-/ready", contender.ready);
        ensure!(!contender.counter.is_empty(), "counter: a metric's name, or \"{SINK}\"");
        Ok(contender)
    }

    /// All files of a folder, by name.
    pub fn load_all(folder: &Path) -> anyhow::Result<Vec<Self>> {
        let entries = std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
        let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        files.retain(|file| file.extension().is_some_and(|ending| ending == "toml"));
        files.sort_by(|one, other| one.file_stem().cmp(&other.file_stem()));
        files.iter().map(|file| Self::load(file)).collect()
    }

    /// Whether its samples go to the sink.
    pub fn forwards(&self) -> bool {
        self.counter == SINK
    }

    /// Where the program is; `None` = not on this machine.
    pub fn find(&self) -> Option<PathBuf> {
        let own = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
        let path = std::env::var_os("PATH").unwrap_or_default();
        find_in(&self.program, own.into_iter().chain(std::env::split_paths(&path)))
    }

    /// What the program says its version is.
    pub fn version(&self, program: &Path) -> String {
        let say = |words: &Vec<String>| {
            let words: Vec<String> = words.iter().map(|w| w.replace("{program}", &program.to_string_lossy())).collect();
            let output = Command::new(words.first()?).args(&words[1..]).output().ok()?;
            let text = [output.stdout, output.stderr].concat();
            let line = String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned();
            (!line.is_empty()).then_some(line)
        };
        self.versions.iter().find_map(say).unwrap_or_else(|| "unknown".into())
    }
}

fn find_in(program: &str, folders: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    if program.contains('/') {
        return Path::new(program).is_file().then(|| program.into());
    }
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// An error for a place in braces that nobody fills in.
pub fn check_placeholders(text: &str) -> anyhow::Result<()> {
    for (at, _) in text.match_indices('{') {
        let word: &str = text[at + 1..].split(|c: char| !c.is_ascii_lowercase() && c != '_').next().unwrap_or_default();
        let is_place = text[at + 1 + word.len()..].starts_with('}') && !word.is_empty();
        ensure!(!is_place || PLACES.contains(&word), "{{{word}}} in \"{}\"; use one of {PLACES:?}", text.trim());
    }
    Ok(())
}

impl RunPaths<'_> {
    /// The text with every place filled in.
    pub fn fill(&self, text: &str) -> String {
        text.replace("{program}", &self.program.to_string_lossy())
            .replace("{config}", &self.config.to_string_lossy())
            .replace("{data}", &self.data.to_string_lossy())
            .replace("{targets}", &self.targets.to_string_lossy())
            .replace("{port}", &self.port.to_string())
            .replace("{sink_port}", &self.sink_port.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = "title = \"X\"\nprogram = \"x\"\nready = \"/ready\"\ncounter = \"c\"\n";

    #[track_caller]
    fn check(more: &str, want: Result<(), &str>) {
        let got = Contender::parse("x", &format!("{SMALLEST}{more}")).map_err(|e| format!("{e:#}"));
        match (got, want) {
            (Ok(_), Ok(())) => {}
            (Err(got), Err(want)) => assert!(got.contains(want), "{got}"),
            (got, want) => panic!("{got:?}, not {want:?}"),
        }
    }

    #[test]
    fn places_are_known() {
        check("arguments = [\"--port={port}\"]", Ok(()));
        check("arguments = []\nconfig = \"remote_write: [{url: 'http://127.0.0.1:{sink_port}/'}]\"", Ok(()));
        check("arguments = [\"--port={prt}\"]", Err("{prt} in \"--port={prt}\"; use one of"));
        check("arguments = []\nports = 1", Err("unknown field `ports`"));
        check("", Err("missing field `arguments`"));
    }

    #[test]
    fn places_are_filled() {
        let (program, folder) = (Path::new("/bin/x"), Path::new("/tmp/d"));
        let places = RunPaths { program, config: folder, data: folder, targets: folder, port: 7, sink_port: 8 };
        assert_eq!(places.fill("{program} {data} {port}/{sink_port} {other}"), "/bin/x /tmp/d 7/8 {other}");
    }

    #[test]
    fn programs_are_found_in_order_of_the_folders() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::create_dir(&first).unwrap();
        std::fs::create_dir(&second).unwrap();
        std::fs::write(second.join("x"), "").unwrap();
        let folders = || [first.clone(), second.clone()].into_iter();
        assert_eq!(find_in("x", folders()), Some(second.join("x")));
        assert_eq!(find_in("y", folders()), None);
        let path = second.join("x");
        assert_eq!(find_in(&path.to_string_lossy(), folders()), Some(path));
    }

    #[test]
    fn a_version_is_the_first_line_that_is_said() {
        let said = "versions = [[\"true\"], [\"no-such-program\"], [\"echo\", \"{program} 1\"]]\narguments = []";
        let contender = Contender::parse("x", &format!("{SMALLEST}{said}")).unwrap();
        assert_eq!(contender.version(Path::new("/x")), "/x 1");
    }

    #[test]
    fn every_contender_of_the_folder_loads() {
        let all = Contender::load_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("contenders")).unwrap();
        let names: Vec<&str> = all.iter().map(|c| c.name.as_str()).collect();
        let want = ["prometheus", "prometheus-agent", "ringscrape", "ringscrape-sends", "victoria-metrics", "vmagent"];
        assert_eq!(names, want);
    }
}

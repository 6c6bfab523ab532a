//! `ringscrape fleet check FILE…` and `ringscrape fleet plan`.

use crate::cli::{Fleet as What, FleetPlan};
use anyhow::{anyhow, bail};
use config::Config;
use fleet::{Identity, Member, Mode, Plan, Rules, View};
use serde_json::{Value, json};
use series::Labels;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Findings of one kind that are listed one by one.
const LISTED_MAX: usize = 10;
/// How long a plan waits for the list of members.
const LIST_WITHIN: Duration = Duration::from_secs(30);

pub fn run(what: &What) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("ringscrape: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut out = std::io::stdout().lock();
    crate::tool::end(match what {
        What::Check { files, replica_labels } => runtime.block_on(check(&mut out, files, replica_labels)),
        What::Plan(options) => runtime.block_on(plan(&mut out, options)).map(|()| true),
    })
}

fn load(file: &Path) -> anyhow::Result<Arc<Config>> {
    config::load(file, &config::Env::process()).map(Arc::new).map_err(|errors| anyhow!("{errors}"))
}

// --- check -----------------------------------------------------------------------------------------------------------

/// Whether nothing is wrong with these files side by side.
async fn check(out: &mut impl Write, files: &[PathBuf], replica_labels: &[String]) -> anyhow::Result<bool> {
    let mut configs = Vec::new();
    for file in files {
        configs.push((file.display().to_string(), load(file)?));
    }
    let identity = |(name, config): &(String, Arc<Config>)| Identity {
        member: name.clone(),
        external_labels: config.global.external_labels.clone(),
    };
    let identities: Vec<Identity> = configs.iter().map(identity).collect();
    let mut is_good = true;
    for finding in fleet::check(&identities, replica_labels) {
        is_good &= !finding.is_error();
        writeln!(out, "{}: {finding}", if finding.is_error() { "ERROR" } else { "WARNING" })?;
    }
    let owners = owners(&configs, replica_labels).await;
    let (mut none, mut several) = (Vec::new(), Vec::new());
    for ((job, address), owners) in &owners {
        match owners.len() {
            0 => none.push(format!("{address} of job {job:?}")),
            1 => {}
            _ => {
                let owners: Vec<&str> = owners.iter().map(String::as_str).collect();
                several.push(format!("{address} of job {job:?}: {}", owners.join(", ")));
            }
        }
    }
    for (what, targets) in [("owned by none", &none), ("owned by several", &several)] {
        for target in targets.iter().take(LISTED_MAX) {
            writeln!(out, "ERROR: target {what}: {target}")?;
        }
        if targets.len() > LISTED_MAX {
            writeln!(out, "ERROR: {} more targets {what}", targets.len() - LISTED_MAX)?;
        }
        is_good &= targets.is_empty();
    }
    writeln!(
        out,
        "{} files, {} targets divided by hashmod: {}",
        files.len(),
        owners.len(),
        if is_good { "good" } else { "BAD" }
    )?;
    Ok(is_good)
}

/// Who owns each address that a hashmod rule decides on. Files that are replicas of each other are one owner.
async fn owners(
    configs: &[(String, Arc<Config>)],
    replica_labels: &[String],
) -> BTreeMap<(String, String), BTreeSet<String>> {
    let mut owners: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for (name, config) in configs {
        let labels = config.global.external_labels.iter();
        let kin = Labels::from_sorted(labels.filter(|(name, _)| !replica_labels.iter().any(|label| label == name)));
        let owner = if kin.is_empty() { name.clone() } else { kin.to_string() };
        for job in config.scrape_configs.iter().filter(|job| hashmod_labels(job).next().is_some()) {
            let mut all = (**job).clone();
            // The check needs every address that was dropped.
            all.keep_dropped_targets = 0;
            let all = Arc::new(all);
            let pool = targets::pool_now(&all, &targets::SdOptions::default()).await;
            let key = |discovered: &Labels| {
                (job.job_name.clone(), discovered.get("__address__").unwrap_or_default().to_owned())
            };
            for target in &pool.active {
                owners.entry(key(&target.discovered)).or_default().insert(owner.clone());
            }
            for dropped in &pool.dropped {
                let by_hash = dropped_by_hash(job, &dropped.discovered);
                if by_hash {
                    owners.entry(key(&dropped.discovered)).or_default();
                }
            }
        }
    }
    owners
}

/// Labels that hashmod rules of the job write.
fn hashmod_labels(job: &config::ScrapeConfig) -> impl Iterator<Item = &str> {
    let rules = job.relabel_configs.rules().iter();
    rules.filter(|rule| rule.action().name() == "hashmod").map(|rule| rule.target_label())
}

/// Whether the rule that drops this address looks at the outcome of a hashmod rule.
fn dropped_by_hash(job: &config::ScrapeConfig, discovered: &Labels) -> bool {
    let steps = job.relabel_configs.explain(discovered.clone());
    let Some(last) = steps.last().filter(|step| !step.kept) else { return false };
    let sources = job.relabel_configs.rules()[last.rule_index].source_labels();
    hashmod_labels(job).any(|label| sources.iter().any(|source| source == label))
}

// --- plan ------------------------------------------------------------------------------------------------------------

async fn plan(out: &mut impl Write, options: &FleetPlan) -> anyhow::Result<()> {
    let config = load(&options.config_file)?;
    let section = config.fleet.as_ref();
    let hash_labels = section.map_or_else(|| vec!["__address__".to_owned()], |section| section.hash_labels.clone());
    let rules = section.map_or_else(Rules::default, targets::rules);
    let before = if options.members.is_empty() {
        let Some(section) = section else {
            bail!("the configuration has no section fleet; say who is there with --members=a,b,c");
        };
        let mut follow =
            targets::DiscoveryWatcher::start(&section.discoveries, &targets::DiscoveryContext::default()).await;
        let listed = async {
            while follow.addresses().is_empty() {
                follow.changed().await;
            }
        };
        let _ = tokio::time::timeout(LIST_WITHIN, listed).await;
        targets::members(section, &follow.addresses())
    } else {
        options.members.iter().map(|text| named(text)).collect::<Result<_, _>>()?
    };
    let mut after = before.clone();
    for name in &options.leave {
        if !after.iter().any(|member| member.name == *name) {
            bail!("--leave={name}: there is no such member; there are {}", names(&before));
        }
        after.retain(|member| member.name != *name);
    }
    for text in &options.join {
        let member = named(text)?;
        if after.iter().any(|other| other.name == member.name) {
            bail!("--join={text}: there is such a member already");
        }
        after.push(member);
    }
    anyhow::ensure!(!before.is_empty() && !after.is_empty(), "a plan needs a member before and after");
    let keys = match &options.targets {
        Some(file) => saved(file, &hash_labels)?,
        None => found(&config, &hash_labels).await,
    };
    anyhow::ensure!(!keys.is_empty(), "no targets found; hand in a list with --targets=FILE");
    let view = |members: &[Member], rules: Rules| {
        let (view, problems) = View::new(members.to_vec(), rules);
        problems.iter().for_each(|problem| eprintln!("ringscrape: {problem}"));
        view
    };
    let by = |mode| Rules { mode, ..rules.clone() };
    let ring = fleet::plan(&view(&before, by(Mode::Ring)), &view(&after, by(Mode::Ring)), &keys);
    let modulo = fleet::plan(&view(&before, by(Mode::Hashmod)), &view(&after, by(Mode::Hashmod)), &keys);
    if options.json {
        let text = json!({"targets": keys.len(), "ring": to_json(&ring, &keys), "hashmod": to_json(&modulo, &keys)});
        writeln!(out, "{text:#}")?;
    } else {
        print(out, &ring, &modulo, &keys, options.moves)?;
    }
    Ok(())
}

fn named(text: &str) -> anyhow::Result<Member> {
    let (name, weight) = text.split_once('=').unwrap_or((text, "1"));
    let weight = weight.parse().map_err(|_| anyhow!("{text:?}: the weight behind = is no number"))?;
    anyhow::ensure!(!name.is_empty(), "{text:?} names no member");
    Ok(Member { weight, ..Member::named(name) })
}

fn names(members: &[Member]) -> String {
    members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// What is hashed of each target that the configuration finds now, in order, each once.
async fn found(config: &Config, hash_labels: &[String]) -> Vec<String> {
    let mut keys = BTreeSet::new();
    for job in &config.scrape_configs {
        for target in &targets::pool_now(job, &targets::SdOptions::default()).await.active {
            // The labels after relabelling, in as far as they are on samples; the address is that of the URL.
            let value = |name: &String| match name.as_str() {
                "__address__" => target.url.authority.as_str(),
                name => target.labels.get(name).or_else(|| target.discovered.get(name)).unwrap_or_default(),
            };
            keys.insert(fleet::key_of(hash_labels.iter().map(value)));
        }
    }
    keys.into_iter().collect()
}

/// The same of a file.
fn saved(file: &Path, hash_labels: &[String]) -> anyhow::Result<Vec<String>> {
    let place = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| anyhow!("{place}: {error}"))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| anyhow!("{place}: is not JSON: {error}"))?;
    let mut keys = BTreeSet::new();
    let mut add = |label: &dyn Fn(&str) -> Option<String>| {
        let values: Vec<String> = hash_labels.iter().map(|name| label(name).unwrap_or_default()).collect();
        keys.insert(fleet::key_of(values.iter().map(String::as_str)));
    };
    let of = |labels: &Value, name: &str| labels.get(name).and_then(Value::as_str).map(str::to_owned);
    if let Some(active) = value.pointer("/data/activeTargets").and_then(Value::as_array) {
        for target in active {
            add(&|name| of(&target["labels"], name).or_else(|| of(&target["discoveredLabels"], name)));
        }
    } else if let Some(groups) = value.as_array() {
        for group in groups {
            for address in group["targets"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                add(&|name| if name == "__address__" { Some(address.to_owned()) } else { of(&group["labels"], name) });
            }
        }
    } else {
        bail!("{place}: want a list of groups as for file_sd_configs, or a saved answer of /api/v1/targets");
    }
    Ok(keys.into_iter().collect())
}

fn to_json(plan: &Plan, keys: &[String]) -> Value {
    let moves: Vec<Value> =
        plan.moves.iter().map(|step| json!({"target": keys[step.target], "from": step.from, "to": step.to})).collect();
    let loads: Vec<Value> = plan
        .loads
        .iter()
        .map(|load| json!({"member": load.member, "before": load.before, "after": load.after}))
        .collect();
    json!({"moved": plan.moves.len(), "stray": plan.stray_count, "members": loads, "moves": moves})
}

fn print(out: &mut impl Write, ring: &Plan, modulo: &Plan, keys: &[String], moves_max: usize) -> std::io::Result<()> {
    let show = |load: Option<usize>| load.map_or_else(|| "-".to_owned(), |load| load.to_string());
    writeln!(
        out,
        "{:<24} {:>10} {:>10} {:>16} {:>16}",
        "member", "before", "after", "hashmod before", "hashmod after"
    )?;
    for load in &ring.loads {
        let other = modulo.loads.iter().find(|other| other.member == load.member);
        let (before, after) = other.map_or((None, None), |other| (other.before, other.after));
        writeln!(
            out,
            "{:<24} {:>10} {:>10} {:>16} {:>16}",
            load.member,
            show(load.before),
            show(load.after),
            show(before),
            show(after)
        )?;
    }
    let percent = |plan: &Plan| 100.0 * plan.moves.len() as f64 / plan.targets_count as f64;
    writeln!(out)?;
    for (name, plan) in [("ring", ring), ("hashmod", modulo)] {
        writeln!(
            out,
            "{name:<8} moves {} of {} targets ({:.1} %), {} of them between members that stay",
            plan.moves.len(),
            plan.targets_count,
            percent(plan),
            plan.stray_count
        )?;
    }
    let shown = if moves_max == 0 { ring.moves.len() } else { moves_max.min(ring.moves.len()) };
    if shown > 0 {
        writeln!(out, "\n{:<40} {:<20} to", "moves by the ring", "from")?;
    }
    for step in &ring.moves[..shown] {
        let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
        writeln!(out, "{:<40} {:<20} {}", keys[step.target], name(&step.from), name(&step.to))?;
    }
    if shown < ring.moves.len() {
        writeln!(out, "… and {} more; --moves=0 shows all", ring.moves.len() - shown)?;
    }
    Ok(())
}

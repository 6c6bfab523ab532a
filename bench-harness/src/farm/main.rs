//! The farm: thousands of scrape targets served by one process, good ones and hostile ones.
//!
//! Every address from 127.1.0.1 upwards is a target; which one was asked is told by the address that the connection
//! came in on. Good targets answer `/metrics` from memory, hostile ones are paths below `/evil/`. The farm has to cost
//! far less than the program it feeds, or its figures mean nothing; README.md has what it was measured at.

mod address;
mod catalogue;
mod evil;
mod payload;
mod rng;
mod script;
mod server;
mod stats;
mod targets;
mod webhook;
mod wire;

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use clap::{Parser, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};

use payload::Motion;
use server::{Farm, FullBacklog, Kind, Loop};
use stats::Stats;

/// Serves thousands of scrape targets on the loopback network, or says which ones.
#[derive(Parser)]
#[command(name = "farm", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand)]
enum Command {
    /// Writes the target list that fits the farm.
    Targets(TargetsArguments),
    /// Lists the hostile targets: what each does and what a scraper should make of it.
    EvilList,
    /// Receives an Alertmanager's webhooks and prints one line for each notification.
    Webhook {
        /// Port on 127.0.0.1; 0 takes a free one.
        #[arg(long, default_value_t = 0)]
        listen: u16,
    },
}

#[derive(clap::Args)]
struct Serve {
    /// Port, or 127.x.y.z:port; 0 takes a free one. All of 127.0.0.0/8 is served whatever the address.
    #[arg(long, default_value = "9900", value_parser = parse_listen)]
    listen: u16,
    /// A further port where all of it is served over TLS; 0 takes a free one.
    #[arg(long)]
    tls_listen: Option<u16>,
    /// File for the certificate of that port, which is made anew at each start; its name is "farm".
    #[arg(long, requires = "tls_listen")]
    tls_certificate: Option<PathBuf>,
    /// What /metrics is.
    #[arg(long, value_enum, default_value = "app")]
    kind: Kind,
    /// Samples of the app payload.
    #[arg(long, default_value_t = catalogue::APP_SAMPLES)]
    samples: usize,
    /// Versions of a payload that each target cycles through; counters fall back when the cycle wraps.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    variants: u16,
    /// Percent of values that change from scrape to scrape.
    #[arg(long, default_value_t = 40.0, value_parser = parse_percent)]
    changing: f64,
    /// Percent of samples that carry a label with another value in each variant.
    #[arg(long, default_value_t = 0.0, value_parser = parse_percent)]
    churn: f64,
    /// Change the order of lines inside a family from scrape to scrape.
    #[arg(long)]
    shuffle: bool,
    /// Serve OpenMetrics, with an exemplar on every bucket that moves, instead of text.
    #[arg(long)]
    openmetrics: bool,
    /// Picks all names, values and orders.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Each target answers a scrape so many milliseconds late.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Never pack a body, whatever the scraper takes.
    #[arg(long)]
    plain: bool,
    /// Event loops, each a thread of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
    /// Targets counted one by one; those beyond share a counter.
    #[arg(long, default_value_t = 65_536)]
    targets_max: usize,
    /// The scrape interval that /stats measures deviations from, in milliseconds; else each target's first one.
    #[arg(long)]
    interval_ms: Option<u64>,
    /// Stop by itself after so many seconds.
    #[arg(long, default_value_t = 3_600)]
    max_seconds: u64,
}

#[derive(clap::Args)]
struct TargetsArguments {
    /// How many targets.
    #[arg(long, default_value_t = 10_000)]
    count: usize,
    /// The port that the farm listens on.
    #[arg(long, default_value_t = 9900)]
    port: u16,
    /// The form of the list.
    #[arg(long, value_enum, default_value = "file_sd")]
    format: targets::Format,
    /// scrape_interval of the configuration.
    #[arg(long, default_value = "15s")]
    interval: String,
    /// scrape_timeout of the configuration.
    #[arg(long)]
    timeout: Option<String>,
    /// So many of the targets are hostile, each with the next path of evil-list.
    #[arg(long, default_value_t = 0)]
    hostile: usize,
}

fn parse_listen(text: &str) -> anyhow::Result<u16> {
    let port = match text.rsplit_once(':') {
        None => text,
        Some((ip, port)) => {
            let ip: Ipv4Addr = ip.parse().map_err(|_| anyhow!("\"{ip}\" is no IPv4 address; use 127.0.0.1:PORT"))?;
            ensure!(ip.is_loopback(), "{ip} is not in 127.0.0.0/8; the farm serves loopback only");
            port
        }
    };
    port.parse().map_err(|_| anyhow!("\"{port}\" is no port; use a number from 0 to 65535"))
}

fn parse_percent(text: &str) -> anyhow::Result<f64> {
    let percent: f64 = text.parse().map_err(|_| anyhow!("\"{text}\" is no number"))?;
    ensure!((0.0..=100.0).contains(&percent), "a percentage is between 0 and 100");
    Ok(percent)
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.command {
        None => serve(&arguments.serve),
        Some(Command::EvilList) => print(&evil::listing()),
        Some(Command::Webhook { listen }) => webhook::serve(listen),
        Some(Command::Targets(wish)) => {
            let TargetsArguments { count, port, format, interval, timeout, hostile } = wish;
            print(&targets::render(&targets::Wish { count, port, format, interval, timeout, hostile })?)
        }
    }
}

/// Writes to stdout; a reader that has seen enough (`farm evil-list | head`) is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("writing to stdout"),
    }
}

fn serve(options: &Serve) -> anyhow::Result<()> {
    // Ten thousand targets are ten thousand connections, and more when they are opened anew for each scrape.
    let files_max = rlimit::increase_nofile_limit(u64::MAX).context("raising the limit of open files")?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("installing a signal handler")?;
    }
    let motion = Motion {
        variants: options.variants.into(),
        changing_percent: options.changing,
        churn_percent: options.churn,
        shuffled: options.shuffle,
        openmetrics: options.openmetrics,
        seed: options.seed,
    };
    let stats = Stats::new(options.targets_max, options.interval_ms.map(Duration::from_millis));
    let delay = Duration::from_millis(options.delay_ms);
    let mut farm = Farm::new(stats, options.kind, options.samples.max(1), motion, delay);
    farm.plain_only = options.plain;
    let made = farm.warm();

    let shared = options.threads > 1;
    let first = server::listen_wide(options.listen, shared)?;
    let port = first.local_addr()?.port();
    let mut loops = vec![Loop::new(&farm, first, None)?];
    for _ in 1..options.threads {
        loops.push(Loop::new(&farm, server::listen_wide(port, shared)?, None)?);
    }
    let mut tls_line = String::new();
    if let Some(port) = options.tls_listen {
        let tls = wire::settings(options.tls_certificate.as_deref())?;
        let listener = server::listen_wide(port, false)?;
        tls_line = format!("farm TLS on 127.0.0.1:{}\n", listener.local_addr()?.port());
        loops.push(Loop::new(&farm, listener, Some(tls))?);
    }
    let full_backlog = FullBacklog::start()?;
    let mut lines = format!("farm listening on 127.0.0.1:{port}\n");
    lines += &format!("farm full-backlog on 127.0.0.1:{}\n", full_backlog.port);
    lines += &tls_line;
    made.iter().for_each(|line| lines += &format!("{line}\n"));
    lines += &format!("{files_max} open files allowed\n");
    print(&lines)?;

    let deadline = Instant::now() + Duration::from_secs(options.max_seconds);
    std::thread::scope(|scope| {
        let threads: Vec<_> = loops
            .into_iter()
            .map(|mut event_loop| {
                let stop = &stop;
                scope.spawn(move || {
                    let result = event_loop.run(stop, deadline);
                    // One loop that fails takes the others along: half a farm would only look like lost scrapes.
                    stop.store(true, Relaxed);
                    result
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("an event loop panicked"))?)
    })
}

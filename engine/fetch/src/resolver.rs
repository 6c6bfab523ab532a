//! Names to addresses, off the cores: threads that ask the system's resolver, and on each core what it has heard.
//!
//! A name that is slow to resolve holds up nobody else: there are as many threads as lookups in flight need, and names
//! that were slow the last time have a share of them only.
//!
//! Invariants:
//!   * a core never blocks on a name; it waits for an answer like for any other message
//!   * a name is looked up once at a time in the whole process, and not at all if every scrape that asked is over
//!   * an answer is used for [`FRESH`], and for [`STALE_OK`] where no better one comes within [`STALE_WAIT`]; a failure is
//!     remembered for [`FAILED`], so that a dead name costs one question per that time and not one per scrape
//!   * at most [`NAMES_MAX`] names wait, [`THREADS_MAX`] are looked up at a time, [`SLOW_THREADS_MAX`] of them slow ones

use ahash::{AHashMap, AHashSet};
use glommio::timer::Timer;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

/// How long an answer is used without asking again.
pub const FRESH: Duration = Duration::from_secs(30);
/// How long an answer serves while there is no newer one.
pub const STALE_OK: Duration = Duration::from_secs(600);
/// How long a scrape that has an old answer waits for a newer one.
const STALE_WAIT: Duration = Duration::from_millis(300);
/// How long a failure stands.
pub const FAILED: Duration = Duration::from_secs(5);
/// Lookups at a time. Each is a thread that waits, with some 20 KiB in use.
const THREADS_MAX: usize = 1024;
/// Lookups at a time of names that took longer than [`SLOW`] the last time.
const SLOW_THREADS_MAX: usize = 128;
const SLOW: Duration = Duration::from_secs(1);
/// A thread without work ends after this.
const IDLE: Duration = Duration::from_secs(10);
const STACK_BYTES: usize = 256 << 10;
/// Names one core remembers, names that may wait, and answers without a listener; beyond that, old ones are forgotten.
const NAMES_MAX: usize = 100_000;
/// How often the hosts file is looked at.
const HOSTS_CHECK_EVERY: Duration = Duration::from_secs(2);
/// A hosts file is small; of a larger one nothing is read.
const HOSTS_BYTES_MAX: u64 = 16 << 20;

type Addresses = Arc<[IpAddr]>;
type Answer = Result<Vec<IpAddr>, String>;

/// The resolver threads, shared by all cores.
#[derive(Clone)]
pub struct ResolverThreads {
    shared: Arc<Shared>,
}

struct Shared {
    lookup: fn(&str) -> Answer,
    queue: Mutex<Queue>,
    work: Condvar,
    hosts: Mutex<Arc<Hosts>>,
}

/// Names by lower-case spelling.
type Hosts = AHashMap<String, Addresses>;

#[derive(Default)]
struct Queue {
    /// Names that wait, oldest first; those that were slow the last time apart.
    names: VecDeque<Arc<str>>,
    slow_names: VecDeque<Arc<str>>,
    /// Who waits for each name that waits or is being looked up.
    listeners: AHashMap<Arc<str>, Vec<flume::Sender<Answer>>>,
    /// Answers that came when nobody listened any more, for whoever asks next.
    unheard: AHashMap<Arc<str>, (Instant, Answer)>,
    was_slow: AHashSet<Arc<str>>,
    threads: usize,
    idle: usize,
    slow_running: usize,
}

impl Queue {
    /// The next name to look up that somebody waits for, and whether it counts as slow.
    fn next(&mut self) -> Option<(Arc<str>, bool)> {
        loop {
            let slow = self.names.is_empty();
            if slow && self.slow_running >= SLOW_THREADS_MAX {
                return None;
            }
            let name = self.names.pop_front().or_else(|| self.slow_names.pop_front())?;
            let listens = |listener: &flume::Sender<Answer>| !listener.is_disconnected();
            if self.listeners.get(&name).is_some_and(|listeners| listeners.iter().any(listens)) {
                self.slow_running += usize::from(slow);
                return Some((name, slow));
            }
            self.listeners.remove(&name);
        }
    }
}

impl ResolverThreads {
    /// Threads start as they are needed and end when they have nothing to do. `lookup` is handed in so that tests need no
    /// network. Names of the hosts file, if one is given, are not looked up.
    pub fn start(lookup: fn(&str) -> Answer, hosts: Option<PathBuf>) -> std::io::Result<ResolverThreads> {
        let shared =
            Arc::new(Shared { lookup, queue: Mutex::default(), work: Condvar::new(), hosts: Mutex::default() });
        if let Some(path) = hosts {
            let seen = shared.read_hosts(&path, None);
            let weak = Arc::downgrade(&shared);
            let follow = move || follow_hosts(&weak, &path, seen);
            std::thread::Builder::new().name("resolver-hosts".into()).spawn(follow)?;
        }
        Ok(ResolverThreads { shared })
    }

    /// The system's resolver, and its hosts file.
    pub fn system() -> std::io::Result<ResolverThreads> {
        ResolverThreads::start(system_lookup, hosts_file_comes_first().then(|| "/etc/hosts".into()))
    }

    fn hosts(&self, name: &str) -> Option<Addresses> {
        let hosts = self.shared.hosts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        hosts.get(&name.to_ascii_lowercase()).cloned()
    }

    /// Asks for a name; the answer comes by the channel, and is not looked for once that is dropped.
    fn request_lookup(&self, host: &str) -> Result<flume::Receiver<Answer>, String> {
        let (reply, answer) = flume::bounded(1);
        let mut queue = self.shared.lock();
        if let Some((heard, unheard)) = queue.unheard.remove(host)
            && heard.elapsed() < FRESH
        {
            let _ = reply.send(unheard);
            return Ok(answer);
        }
        if let Some(listeners) = queue.listeners.get_mut(host) {
            listeners.retain(|listener| !listener.is_disconnected());
            listeners.push(reply);
            return Ok(answer);
        }
        if queue.listeners.len() >= NAMES_MAX {
            return Err(format!("more than {NAMES_MAX} names wait for the resolver"));
        }
        let name: Arc<str> = host.into();
        queue.listeners.insert(name.clone(), vec![reply]);
        match queue.was_slow.contains(&name) {
            true => queue.slow_names.push_back(name),
            false => queue.names.push_back(name),
        }
        if queue.names.len() + queue.slow_names.len() > queue.idle && queue.threads < THREADS_MAX {
            let shared = self.shared.clone();
            let thread = std::thread::Builder::new().name("resolver".into()).stack_size(STACK_BYTES);
            match thread.spawn(move || shared.work_until_idle()) {
                Ok(_) => queue.threads += 1,
                // Others will come to it, if there are any.
                Err(error) if queue.threads == 0 => {
                    queue.listeners.remove(host);
                    return Err(format!("no thread for the resolver: {error}"));
                }
                Err(_) => {}
            }
        }
        drop(queue);
        self.shared.work.notify_one();
        Ok(answer)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One thread: looks names up until there have been none for a while.
    fn work_until_idle(&self) {
        let mut queue = self.lock();
        let mut was_idle = false;
        loop {
            let Some((name, slow)) = queue.next() else {
                if was_idle {
                    queue.threads -= 1;
                    return;
                }
                queue.idle += 1;
                let (guard, waited) = self.work.wait_timeout(queue, IDLE).unwrap_or_else(PoisonError::into_inner);
                queue = guard;
                queue.idle -= 1;
                was_idle = waited.timed_out();
                continue;
            };
            was_idle = false;
            drop(queue);
            let begun = Instant::now();
            let answer = (self.lookup)(&name);
            let was_slow = begun.elapsed() > SLOW;
            queue = self.lock();
            queue.slow_running -= usize::from(slow);
            if !was_slow {
                queue.was_slow.remove(&name);
            } else if queue.was_slow.len() < NAMES_MAX {
                queue.was_slow.insert(name.clone());
            }
            let listeners = queue.listeners.remove(&name).unwrap_or_default();
            let mut heard = false;
            for listener in listeners {
                heard |= listener.send(answer.clone()).is_ok();
            }
            if !heard {
                if queue.unheard.len() >= NAMES_MAX {
                    queue.unheard.retain(|_, (heard, _)| heard.elapsed() < FRESH);
                }
                if queue.unheard.len() < NAMES_MAX {
                    queue.unheard.insert(name, (Instant::now(), answer));
                }
            }
        }
    }

    /// Reads the hosts file if it is another than the last time, whose stamp is given; returns its stamp.
    fn read_hosts(&self, path: &Path, seen: Option<(SystemTime, u64)>) -> Option<(SystemTime, u64)> {
        let stamp = std::fs::metadata(path).ok().and_then(|data| Some((data.modified().ok()?, data.len())));
        if stamp != seen || seen.is_none() {
            let is_small = stamp.is_some_and(|(_, bytes)| bytes <= HOSTS_BYTES_MAX);
            let text = if is_small { std::fs::read_to_string(path).unwrap_or_default() } else { String::new() };
            *self.hosts.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(parse_hosts(&text));
        }
        stamp
    }
}

fn follow_hosts(shared: &Weak<Shared>, path: &Path, mut seen: Option<(SystemTime, u64)>) {
    loop {
        std::thread::sleep(HOSTS_CHECK_EVERY);
        let Some(shared) = shared.upgrade() else { return };
        seen = shared.read_hosts(path, seen);
    }
}

/// Lines of an address and its names, comments behind `#`.
fn parse_hosts(text: &str) -> Hosts {
    let mut hosts: AHashMap<String, Vec<IpAddr>> = AHashMap::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or("").split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        for name in words {
            let addresses = hosts.entry(name.to_ascii_lowercase()).or_default();
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    hosts.into_iter().map(|(name, addresses)| (name, addresses.into())).collect()
}

/// Whether the system looks into its hosts file before it asks anybody.
fn hosts_file_comes_first() -> bool {
    let Ok(text) = std::fs::read_to_string("/etc/nsswitch.conf") else { return true };
    let sources = text.lines().find_map(|line| line.trim().strip_prefix("hosts:"));
    sources.is_none_or(|sources| sources.split_whitespace().next() == Some("files"))
}

/// Asks the system's resolver (`/etc/hosts`, DNS as configured). Blocks.
fn system_lookup(host: &str) -> Answer {
    match (host, 0u16).to_socket_addrs() {
        Ok(found) => Ok(found.map(|address| address.ip()).collect()),
        Err(error) => Err(error.to_string()),
    }
}

/// What a core knows of a name.
#[derive(Default)]
struct ResolvedName {
    /// The last good answer, and when it came.
    good: Option<(Addresses, Instant)>,
    /// The last failure, unless an answer has come since, and when it came.
    failed: Option<(String, Instant)>,
    /// An answer that may still come.
    pending: Option<flume::Receiver<Answer>>,
}

impl ResolvedName {
    /// The good addresses, while they are no older than this.
    fn within(&self, age_max: Duration) -> Option<Addresses> {
        self.good.as_ref().filter(|(_, heard)| heard.elapsed() < age_max).map(|(addresses, _)| addresses.clone())
    }

    fn learn(&mut self, answer: Answer) {
        let now = Instant::now();
        match answer {
            Ok(ips) if ips.is_empty() => self.failed = Some(("no such host".to_owned(), now)),
            Ok(ips) => (self.good, self.failed) = (Some((ips.into(), now)), None),
            Err(error) => self.failed = Some((error, now)),
        }
    }

    /// What stands without a question: the addresses, or the failure of a moment ago.
    fn standing(&self) -> Option<Result<Addresses, String>> {
        if let Some((error, at)) = &self.failed {
            if at.elapsed() >= FAILED {
                return None;
            }
            return Some(self.within(STALE_OK).ok_or_else(|| error.clone()));
        }
        self.within(FRESH).map(Ok)
    }
}

/// One core's resolver.
#[derive(Clone)]
pub struct Resolver {
    threads: ResolverThreads,
    known: Rc<RefCell<AHashMap<String, ResolvedName>>>,
}

impl Resolver {
    pub fn new(threads: ResolverThreads) -> Resolver {
        Resolver { threads, known: Rc::default() }
    }

    /// The addresses of `host`, which may be an IP address, with a zone even, or empty: this host. The error is the text for
    /// `lastError`.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        if let Some(found) = literal(host, port) {
            return found;
        }
        let found = match self.threads.hosts(host) {
            Some(addresses) => Ok(addresses),
            None => self.look_up(host).await,
        };
        let addresses = found.map_err(|error| format!("lookup {host}: {error}"))?;
        Ok(addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect())
    }

    async fn look_up(&self, host: &str) -> Result<Addresses, String> {
        let (pending, old) = {
            let mut all = self.known.borrow_mut();
            if all.len() >= NAMES_MAX {
                all.retain(|_, known| known.within(STALE_OK).is_some());
            }
            let known = all.entry(host.to_owned()).or_default();
            let mut pending = known.pending.take();
            if let Some(answer) = pending.as_ref().and_then(|pending| pending.try_recv().ok()) {
                known.learn(answer);
                pending = None;
            }
            if let Some(standing) = known.standing() {
                known.pending = pending;
                return standing;
            }
            (pending, known.within(STALE_OK))
        };
        let pending = match pending {
            Some(pending) if !pending.is_disconnected() => pending,
            _ => self.threads.request_lookup(host)?,
        };
        let answer = async { pending.recv_async().await.unwrap_or_else(|_| Err("the resolver has stopped".into())) };
        let answer = match &old {
            None => Some(answer.await),
            Some(_) => {
                let late = async {
                    Timer::new(STALE_WAIT).await;
                    None
                };
                futures_lite::future::or(async { Some(answer.await) }, late).await
            }
        };
        let mut all = self.known.borrow_mut();
        let known = all.entry(host.to_owned()).or_default();
        match (answer, old) {
            (Some(answer), _) => known.learn(answer),
            (None, Some(old)) => {
                known.pending = Some(pending);
                return Ok(old);
            }
            (None, None) => unreachable!("without an old answer it waits for the new one"),
        }
        known.standing().unwrap_or_else(|| Err("no answer".to_owned()))
    }
}

/// Addresses that are written as such; None for a name.
fn literal(host: &str, port: u16) -> Option<Result<Vec<SocketAddr>, String>> {
    if host.is_empty() {
        return Some(Ok(vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)]));
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Some(Ok(vec![SocketAddr::new(ip, port)]));
    }
    let (ip, zone) = host.split_once('%')?;
    let ip = ip.parse::<Ipv6Addr>().ok()?;
    let Some(index) = zone_index(zone) else { return Some(Err(format!("{host}: there is no interface {zone:?}"))) };
    Some(Ok(vec![SocketAddrV6::new(ip, port, 0, index).into()]))
}

/// The number of a network interface.
fn zone_index(zone: &str) -> Option<u32> {
    if let Ok(index) = zone.parse() {
        return Some(index);
    }
    let is_name = zone.len() < 16 && !zone.starts_with('.') && !zone.contains(['/', '\0']) && !zone.is_empty();
    // Of the kernel's memory: it takes some microseconds.
    let text = is_name.then(|| std::fs::read_to_string(format!("/sys/class/net/{zone}/ifindex")))?.ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::block_on;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn resolver(lookup: fn(&str) -> Answer) -> Resolver {
        Resolver::new(ResolverThreads::start(lookup, None).unwrap())
    }

    fn resolve(resolver: &Resolver, host: &str) -> Result<Vec<SocketAddr>, String> {
        block_on(resolver.resolve(host, 9100))
    }

    fn localhost(_: &str) -> Answer {
        Ok(vec![[127, 0, 0, 7].into()])
    }

    #[track_caller]
    fn within<T>(limit: Duration, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let outcome = work();
        assert!(begun.elapsed() < limit, "it took {:?}", begun.elapsed());
        outcome
    }

    #[test]
    fn answers_and_failures_are_remembered() {
        static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
        let resolver = resolver(|host| {
            LOOKUPS.fetch_add(1, Ordering::SeqCst);
            match host {
                "good" => localhost(host),
                "empty" => Ok(vec![]),
                _ => Err("no such host".into()),
            }
        });
        for _ in 0..3 {
            assert_eq!(resolve(&resolver, "good"), Ok(vec!["127.0.0.7:9100".parse().unwrap()]));
            assert_eq!(resolve(&resolver, "bad").unwrap_err(), "lookup bad: no such host");
            assert!(resolve(&resolver, "empty").unwrap_err().ends_with("no such host"));
        }
        assert_eq!(LOOKUPS.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn addresses_need_no_question() {
        let resolver = resolver(|_| panic!("asked"));
        let check = |host: &str, want: &str| assert_eq!(resolve(&resolver, host), Ok(vec![want.parse().unwrap()]));
        check("127.1.2.3", "127.1.2.3:9100");
        check("::1", "[::1]:9100");
        check("", "127.0.0.1:9100");
        check("fe80::1%7", "[fe80::1%7]:9100");
        check("fe80::1%lo", "[fe80::1%1]:9100");
        assert!(resolve(&resolver, "fe80::1%../lo").unwrap_err().contains("there is no interface"));
    }

    #[test]
    fn hosts_file_answers_at_once_and_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        std::fs::write(&path, "127.0.0.9\tnode-1 Node-2 # a note\n::1 node-2\nnonsense x\n").unwrap();
        let resolver = Resolver::new(ResolverThreads::start(|_| Err("asked".into()), Some(path.clone())).unwrap());
        assert_eq!(resolve(&resolver, "node-1"), Ok(vec!["127.0.0.9:9100".parse().unwrap()]));
        assert_eq!(resolve(&resolver, "NODE-2").unwrap().len(), 2);
        assert_eq!(resolve(&resolver, "x"), Err("lookup x: asked".to_owned()));
        std::fs::write(&path, "127.0.0.10 node-1\n").unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        while resolve(&resolver, "node-1") != Ok(vec!["127.0.0.10:9100".parse().unwrap()]) {
            assert!(Instant::now() < end, "the file is followed");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A dozen slow names took `localhost` down.
    #[test]
    fn slow_names_hold_up_nobody_else() {
        let resolver = resolver(|host| {
            if host.starts_with("slow") {
                std::thread::sleep(Duration::from_secs(8));
            }
            localhost(host)
        });
        let slow: Vec<_> = (0..200).map(|i| resolver.threads.request_lookup(&format!("slow-{i}")).unwrap()).collect();
        for i in 0..20 {
            within(Duration::from_secs(5), || assert!(resolve(&resolver, &format!("good-{i}")).is_ok()));
        }
        assert!(slow.iter().all(flume::Receiver::is_empty), "they are still looked up");
    }

    /// Of thousands of names at 10 ms each, many were down at the start.
    #[test]
    fn thousands_of_names_are_looked_up_side_by_side() {
        let resolver = resolver(|host| {
            std::thread::sleep(Duration::from_millis(10));
            localhost(host)
        });
        within(Duration::from_secs(10), || {
            let asked: Vec<_> =
                (0..5_000).map(|i| resolver.threads.request_lookup(&format!("name-{i}")).unwrap()).collect();
            assert!(asked.iter().all(|answer| answer.recv().unwrap().is_ok()));
        });
    }

    #[test]
    fn a_name_is_looked_up_once_at_a_time_and_not_for_scrapes_that_are_over() {
        static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
        let threads = ResolverThreads::start(
            |host| {
                LOOKUPS.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(200));
                localhost(host)
            },
            None,
        )
        .unwrap();
        let asked: Vec<_> = (0..50).map(|_| threads.request_lookup("name").unwrap()).collect();
        assert!(asked.iter().all(|answer| answer.recv().unwrap().is_ok()));
        assert_eq!(LOOKUPS.load(Ordering::SeqCst), 1);
        // The scrape ends before the answer comes: the next one finds it.
        let given_up = threads.request_lookup("late").unwrap();
        std::thread::sleep(Duration::from_millis(100));
        drop(given_up);
        std::thread::sleep(Duration::from_millis(400));
        let begun = LOOKUPS.load(Ordering::SeqCst);
        assert!(threads.request_lookup("late").unwrap().recv().unwrap().is_ok());
        assert_eq!(LOOKUPS.load(Ordering::SeqCst), begun);
        // Those that wait for a thread and whom nobody wants any more are skipped.
        let mut queue = Queue::default();
        let (reply, answer) = flume::bounded(1);
        queue.names.push_back("gone".into());
        queue.listeners.insert("gone".into(), vec![reply]);
        drop(answer);
        assert!(queue.next().is_none() && queue.listeners.is_empty());
    }

    #[test]
    fn last_good_answer_serves_until_there_is_a_better_one() {
        fn lookup(host: &str) -> Answer {
            match host {
                "gone" => Err("server misbehaving".into()),
                _ => {
                    std::thread::sleep(Duration::from_secs(1));
                    Ok(vec![[127, 0, 0, 8].into()])
                }
            }
        }
        let test = async || {
            let resolver = resolver(lookup);
            let ip: IpAddr = [127, 0, 0, 9].into();
            let old = |age: Duration| ResolvedName {
                good: Some(([ip].into(), Instant::now() - age)),
                ..ResolvedName::default()
            };
            let resolve = async |host: &'static str| resolver.resolve(host, 1).await.map(|found| found[0].ip());
            for name in ["gone", "slow"] {
                resolver.known.borrow_mut().insert(name.into(), old(FRESH));
                assert_eq!(resolve(name).await, Ok(ip), "{name}");
            }
            Timer::new(Duration::from_millis(1500)).await;
            assert_eq!(resolve("slow").await, Ok([127, 0, 0, 8].into()), "the answer that came meanwhile");
            resolver.known.borrow_mut().insert("gone".into(), old(STALE_OK));
            assert!(resolve("gone").await.is_err());
        };
        let executor = glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound);
        executor.spawn(move || async move { test().await }).unwrap().join().unwrap();
    }
}

//! Names to addresses, off the cores: a few threads ask the system's resolver, each core keeps what it heard.
//!
//! Invariants:
//!   * a core never blocks on a name; it waits for an answer like for any other message
//!   * an answer is used for [`FRESH`]; while no newer one comes, for [`STALE_OK`]; a failure is remembered for
//!     [`FAILED`], so that a dead name costs one question per that time and not one per scrape
//!   * at most [`QUESTIONS_MAX`] questions wait; one more fails at once

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long an answer is used without asking again.
pub const FRESH: Duration = Duration::from_secs(30);
/// How long an answer serves while the resolver fails.
pub const STALE_OK: Duration = Duration::from_secs(300);
/// How long a failure stands.
pub const FAILED: Duration = Duration::from_secs(5);
/// Questions that may wait for a resolver thread.
pub const QUESTIONS_MAX: usize = 1024;
/// Threads that ask; a name server that hangs holds up as many names.
const THREADS: usize = 4;
/// Names one core remembers; beyond that, old ones are forgotten.
const NAMES_MAX: usize = 100_000;

type Addresses = Rc<[IpAddr]>;
type Answer = Result<Vec<IpAddr>, String>;

struct Question {
    host: String,
    reply: flume::Sender<Answer>,
}

/// The resolver threads, shared by all cores.
#[derive(Clone)]
pub struct ResolverThreads {
    questions: flume::Sender<Question>,
}

impl ResolverThreads {
    /// Starts the threads; they end when the last handle is gone. `lookup` is handed in so that tests need no network.
    pub fn start(lookup: fn(&str) -> Answer) -> std::io::Result<ResolverThreads> {
        let (questions, asked) = flume::bounded::<Question>(QUESTIONS_MAX);
        for i in 0..THREADS {
            let asked = asked.clone();
            std::thread::Builder::new().name(format!("resolver-{i}")).spawn(move || {
                while let Ok(question) = asked.recv() {
                    // The asking scrape may have ended meanwhile; then nobody listens and that is fine.
                    let _ = question.reply.send(lookup(&question.host));
                }
            })?;
        }
        Ok(ResolverThreads { questions })
    }
}

/// Asks the system's resolver (`/etc/hosts`, DNS as configured). Blocks.
pub fn system_lookup(host: &str) -> Answer {
    match (host, 0u16).to_socket_addrs() {
        Ok(found) => Ok(found.map(|address| address.ip()).collect()),
        Err(error) => Err(error.to_string()),
    }
}

struct Known {
    answer: Result<Addresses, String>,
    /// When the good addresses in `answer` were heard, or when the failure was.
    heard: Instant,
    /// When the last question was asked, answered well or not.
    asked: Instant,
}

/// One core's resolver.
#[derive(Clone)]
pub struct Resolver {
    threads: ResolverThreads,
    known: Rc<RefCell<HashMap<String, Known>>>,
}

impl Resolver {
    pub fn new(threads: ResolverThreads) -> Resolver {
        Resolver { threads, known: Rc::default() }
    }

    /// The addresses of `host`, which may be an IP address; the error is the text for `lastError`.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        let at_port = |ips: &[IpAddr]| ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(at_port(&[ip]));
        }
        if let Some(known) = self.known.borrow().get(host) {
            let age = known.asked.elapsed();
            match &known.answer {
                Ok(ips) if age < FRESH => return Ok(at_port(ips)),
                Err(error) if age < FAILED => return Err(error.clone()),
                _ => {}
            }
        }
        let (reply, answer) = flume::bounded(1);
        let question = Question { host: host.to_owned(), reply };
        let answer = match self.threads.questions.try_send(question) {
            Ok(()) => answer.recv_async().await.unwrap_or_else(|_| Err("the resolver has stopped".into())),
            Err(_) => Err(format!("more than {QUESTIONS_MAX} names wait for the resolver")),
        };
        self.learn(host, answer).map(|ips| at_port(&ips)).map_err(|error| format!("lookup {host}: {error}"))
    }

    fn learn(&self, host: &str, answer: Answer) -> Result<Addresses, String> {
        let now = Instant::now();
        let mut known = self.known.borrow_mut();
        if known.len() >= NAMES_MAX {
            known.retain(|_, known| now - known.asked < STALE_OK);
        }
        let answer = match answer {
            Ok(ips) if ips.is_empty() => Err("no such host".to_owned()),
            Ok(ips) => Ok(Addresses::from(ips)),
            Err(error) => Err(error),
        };
        if let (Err(_), Some(old)) = (&answer, known.get_mut(host))
            && let Ok(ips) = &old.answer
            && now - old.heard < STALE_OK
        {
            // Asked again only after FAILED, however old the answer: pretend that it is almost stale.
            old.asked = now - (FRESH - FAILED);
            return Ok(ips.clone());
        }
        known.insert(host.to_owned(), Known { answer: answer.clone(), heard: now, asked: now });
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    static LOOKUPS: AtomicUsize = AtomicUsize::new(0);

    fn fake(host: &str) -> Answer {
        LOOKUPS.fetch_add(1, Ordering::SeqCst);
        match host {
            "good" => Ok(vec![[127, 0, 0, 7].into()]),
            "empty" => Ok(vec![]),
            _ => Err("no such host".into()),
        }
    }

    fn resolve(resolver: &Resolver, host: &str) -> Result<Vec<SocketAddr>, String> {
        futures_lite::future::block_on(resolver.resolve(host, 9100))
    }

    #[test]
    fn answers_and_failures_are_remembered() {
        let resolver = Resolver::new(ResolverThreads::start(fake).unwrap());
        let before = LOOKUPS.load(Ordering::SeqCst);
        for _ in 0..3 {
            assert_eq!(resolve(&resolver, "good"), Ok(vec!["127.0.0.7:9100".parse().unwrap()]));
            assert!(resolve(&resolver, "bad").unwrap_err().ends_with("no such host"));
            assert!(resolve(&resolver, "empty").unwrap_err().ends_with("no such host"));
        }
        assert_eq!(LOOKUPS.load(Ordering::SeqCst) - before, 3);
    }

    #[test]
    fn addresses_need_no_question() {
        let resolver = Resolver::new(ResolverThreads::start(|_| panic!("asked")).unwrap());
        assert_eq!(resolve(&resolver, "127.1.2.3"), Ok(vec!["127.1.2.3:9100".parse().unwrap()]));
        assert_eq!(resolve(&resolver, "::1"), Ok(vec!["[::1]:9100".parse().unwrap()]));
    }

    #[test]
    fn last_good_answer_serves_while_the_resolver_fails() {
        let resolver = Resolver::new(ResolverThreads::start(fake).unwrap());
        let long_ago = Instant::now() - FRESH - Duration::from_secs(1);
        let ip: IpAddr = [127, 0, 0, 9].into();
        let known = Known { answer: Ok([ip].into()), heard: long_ago, asked: long_ago };
        resolver.known.borrow_mut().insert("gone".into(), known);
        assert_eq!(resolve(&resolver, "gone"), Ok(vec!["127.0.0.9:9100".parse().unwrap()]));
        resolver.known.borrow_mut().get_mut("gone").unwrap().heard -= STALE_OK;
        resolver.known.borrow_mut().get_mut("gone").unwrap().asked -= FRESH;
        assert!(resolve(&resolver, "gone").is_err());
    }
}

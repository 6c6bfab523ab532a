//! Three crashes in a short time: the real program, killed, comes back in safe mode and leaves it.

mod support;

use support::{FakeTarget, Ringscrape, config, job, until};

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

fn lines(name: &str, count: usize) -> String {
    (0..count).map(|i| format!("{name}{{i=\"{i}\"}} {i}\n")).collect()
}

fn safe_mode(server: &Ringscrape) -> bool {
    server.metric("ringscrape_safe_mode") == Some(1.0)
}

fn error_of(server: &Ringscrape, job: &str) -> Option<String> {
    let target = server.targets().into_iter().find(|target| target["labels"]["job"] == job)?;
    let error = target["lastError"].as_str()?;
    (!error.is_empty()).then(|| error.to_owned())
}

#[test]
fn the_third_crash_holds_back_who_has_far_more_than_the_others() {
    let good: Vec<FakeTarget> = (0..3).map(|_| FakeTarget::saying(&lines("good", 100))).collect();
    let bomb = FakeTarget::saying(&lines("bomb", 30_000));
    let addresses: Vec<_> = good.iter().map(|target| target.address).collect();
    let config = config(&[job("good", &addresses, ""), job("bomb", &[bomb.address], "")]);
    let flags = ["--shards=2", "--storage.safe-mode-window=20s"];
    let mut server = Ringscrape::start(&config, &flags);
    let scraped = |server: &Ringscrape| {
        until("all are scraped", || {
            (server.federate("{i=\"99\"}").len() == 4 && server.federate("up").len() == 4).then_some(())
        })
    };
    for crash in 1..=3 {
        scraped(&server);
        assert!(!safe_mode(&server), "after {} crashes", crash - 1);
        server.restart(SIGKILL, &flags);
        assert_eq!(server.metric("ringscrape_crashes"), Some(f64::from(crash)));
    }

    assert!(safe_mode(&server));
    assert!(server.log().contains("safe mode after 3 crashes within 20 s"), "{}", server.log());
    assert!(server.get("/api/v1/status/runtimeinfo").body.contains("3 crashes within 20 s"));
    let error = until("the bomb is held back", || error_of(&server, "bomb"));
    assert!(error.contains("no target may have more than 10000 samples"), "{error}");
    until("the others go on", || (server.federate("good{i=\"99\"}").len() == 3).then_some(()));
    assert_eq!(error_of(&server, "good"), None);
    let refused = "ringscrape_scrapes_failed_total{reason=\"safe_mode\"}";
    assert!(server.metric(refused).is_some_and(|count| count > 0.0), "{refused}");
    server.until_ready();
    until("what was scraped before is there", || {
        let stored = server.api("/api/v1/query?query=count(last_over_time(bomb[1m]))");
        (stored["result"][0]["value"][1] == "30000").then_some(())
    });

    until("it lasts as long as the window, and ends", || (!safe_mode(&server)).then_some(()));
    until("the bomb is scraped again", || error_of(&server, "bomb").is_none().then_some(()));
    server.restart(SIGKILL, &flags);
    assert_eq!(server.metric("ringscrape_crashes"), Some(1.0), "the crashes before were forgiven");
}

#[test]
fn ends_in_order_are_no_crashes_and_the_window_may_be_none() {
    let target = FakeTarget::saying("a 1\n");
    let config = config(&[job("j", &[target.address], "")]);
    let mut server = Ringscrape::start(&config, &[]);
    for _ in 0..3 {
        server.restart(SIGTERM, &[]);
        assert_eq!(server.metric("ringscrape_crashes"), Some(0.0));
    }
    for _ in 0..4 {
        server.restart(SIGKILL, &["--storage.safe-mode-window=0s"]);
        assert!(!safe_mode(&server));
    }
    until("it scrapes", || (server.federate("a").len() == 1).then_some(()));
    assert_eq!(error_of(&server, "j"), None);
}

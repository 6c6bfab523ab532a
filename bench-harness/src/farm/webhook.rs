//! A receiver of an Alertmanager's webhooks: one line for each notification, for demonstrations and tests.
//!
//! One thread per connection: there is one sender.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::{Context, ensure};
use serde_json::Value;

/// Largest head and body of a request.
const HEAD_BYTES_MAX: u64 = 64 << 10;
const BODY_BYTES_MAX: usize = 16 << 20;

/// Serves until the process ends. The first line that it prints says the port.
pub fn serve(port: u16) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).with_context(|| format!("listening on port {port}"))?;
    println!("webhook listening on 127.0.0.1:{}", listener.local_addr()?.port());
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        // A sender that talks nonsense ends its connection and nothing else.
        std::thread::spawn(move || _ = connection(&stream));
    }
    Ok(())
}

fn connection(mut stream: &TcpStream) -> anyhow::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        let mut head = (&mut reader).take(HEAD_BYTES_MAX);
        loop {
            let mut line = String::new();
            ensure!(head.read_line(&mut line)? > 0, "the end");
            if line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
        }
        ensure!(length <= BODY_BYTES_MAX, "a body of {length} bytes");
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        println!("{}", line(&serde_json::from_slice(&body)?));
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
}

/// Such as `notification firing: InstanceDown 10.0.0.1:9100 firing`: the group's state, then each alert with its own.
fn line(notification: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let alerts = notification["alerts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let alerts: Vec<String> = alerts
        .iter()
        .map(|alert| {
            let labels = &alert["labels"];
            format!("{} {} {}", text(&labels["alertname"]), text(&labels["instance"]), text(&alert["status"]))
        })
        .collect();
    format!("notification {}: {}", text(&notification["status"]), alerts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_is_one_line() {
        let alert = |name: &str, status: &str| serde_json::json!({"status": status, "labels": {"alertname": name, "instance": "h:1"}});
        let notification =
            serde_json::json!({"status": "firing", "alerts": [alert("A", "firing"), alert("B", "resolved")]});
        assert_eq!(line(&notification), "notification firing: A h:1 firing, B h:1 resolved");
        assert_eq!(line(&serde_json::json!(7)), "notification ?: ");
    }
}

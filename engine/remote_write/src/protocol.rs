//! Which message and which compression an endpoint gets: as configured, and as its responses taught.
//!
//! 2.0 gives way to 1.0 for an hour if the receiver does not read it. 1.0 is packed with zstd instead of snappy if the
//! receiver says that it speaks VictoriaMetrics' protocol, and until it refuses a body.

use remote::{DecodeError, Message, Part, Rewritten, rewrite};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long 1.0 is sent instead of 2.0 before 2.0 is tried again.
const DOWNGRADED_FOR: Duration = Duration::from_hours(1);
/// Fast, and a third smaller than what snappy makes of requests.
const ZSTD_LEVEL: i32 = 1;
/// Of a request of ours that is unpacked to be rewritten.
const UNPACKED_BYTES_MAX: usize = 256 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Snappy,
    Zstd,
}

impl Compression {
    pub fn pack(self, body: &[u8]) -> Vec<u8> {
        match self {
            Compression::Snappy => remote::pack(body),
            Compression::Zstd => remote::pack_zstd(body, ZSTD_LEVEL),
        }
    }

    pub fn unpack(self, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        match self {
            Compression::Snappy => remote::unpack(body, UNPACKED_BYTES_MAX),
            Compression::Zstd => remote::unpack_zstd(body, UNPACKED_BYTES_MAX),
        }
    }

    /// As `Content-Encoding` has it.
    pub fn name(self) -> &'static str {
        match self {
            Compression::Snappy => "snappy",
            Compression::Zstd => "zstd",
        }
    }
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub message: Message,
    pub compression: Compression,
}

impl Format {
    /// Builds a part of a request in another format; the body of the result is compressed.
    pub fn rewrite(self, body: &[u8], to: Format, part: &Part) -> Result<Rewritten, DecodeError> {
        let mut rewritten = rewrite(self.message, &self.compression.unpack(body)?, to.message, part)?;
        rewritten.body = to.compression.pack(&rewritten.body);
        Ok(rewritten)
    }
}

/// What is known of an endpoint's receiver.
#[derive(Debug)]
pub struct Protocol {
    configured: Message,
    downgraded_at: Mutex<Option<Instant>>,
    /// 1.0 was refused as well, so 2.0 stays.
    refuses_v1: AtomicBool,
    takes_zstd: AtomicBool,
    refuses_zstd: AtomicBool,
}

impl Protocol {
    pub fn new(configured: Message) -> Protocol {
        Protocol {
            configured,
            downgraded_at: Mutex::default(),
            refuses_v1: AtomicBool::new(false),
            takes_zstd: AtomicBool::new(false),
            refuses_zstd: AtomicBool::new(false),
        }
    }

    /// The format of a new request.
    pub fn format(&self) -> Format {
        let message = if self.is_downgraded() { Message::V1 } else { self.configured };
        let takes_zstd = self.takes_zstd.load(Ordering::Relaxed) && !self.refuses_zstd.load(Ordering::Relaxed);
        let is_zstd = message == Message::V1 && takes_zstd;
        Format { message, compression: if is_zstd { Compression::Zstd } else { Compression::Snappy } }
    }

    /// The format in which a request that was made in this one is sent now: another one only if the receiver refuses this.
    pub fn adjust(&self, format: Format) -> Format {
        let refuses_v1 = self.refuses_v1.load(Ordering::Relaxed);
        let message = match format.message {
            Message::V2 if self.is_downgraded() => Message::V1,
            Message::V1 if self.configured == Message::V2 && refuses_v1 => Message::V2,
            same => same,
        };
        let keeps = message == Message::V1 && !self.refuses_zstd.load(Ordering::Relaxed);
        Format { message, compression: if keeps { format.compression } else { Compression::Snappy } }
    }

    fn is_downgraded(&self) -> bool {
        let since = *self.downgraded_at.lock().unwrap_or_else(PoisonError::into_inner);
        !self.refuses_v1.load(Ordering::Relaxed) && since.is_some_and(|since| since.elapsed() < DOWNGRADED_FOR)
    }

    /// Whether a 2.0 request that is not understood may be sent as 1.0.
    pub fn may_downgrade(&self) -> bool {
        !self.refuses_v1.load(Ordering::Relaxed)
    }

    /// Notes that the receiver does not read 2.0. Returns whether that is news.
    pub fn downgrade(&self) -> bool {
        let mut since = self.downgraded_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = since.is_none_or(|since| since.elapsed() >= DOWNGRADED_FOR);
        if is_news {
            *since = Some(Instant::now());
        }
        is_news
    }

    /// Notes that the receiver does not read 1.0. Returns whether 2.0 is sent instead.
    pub fn set_refuses_v1(&self) -> bool {
        self.refuses_v1.fetch_or(self.configured == Message::V2, Ordering::Relaxed);
        self.configured == Message::V2
    }

    /// Notes that the receiver says that it takes zstd.
    pub fn set_takes_zstd(&self) {
        self.takes_zstd.store(true, Ordering::Relaxed);
    }

    /// Notes that the receiver refused a body in zstd. Returns whether that is news.
    pub fn set_refuses_zstd(&self) -> bool {
        !self.refuses_zstd.swap(true, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_teaches_what_it_reads() {
        const V1: Format = Format { message: Message::V1, compression: Compression::Snappy };
        const V2: Format = Format { message: Message::V2, compression: Compression::Snappy };
        const V1_ZSTD: Format = Format { compression: Compression::Zstd, ..V1 };
        let protocol = Protocol::new(Message::V2);
        assert_eq!((protocol.format(), protocol.adjust(V2)), (V2, V2));
        protocol.set_takes_zstd();
        assert_eq!(protocol.format(), V2, "nobody takes 2.0 in zstd");
        assert!(protocol.downgrade() && !protocol.downgrade());
        assert_eq!((protocol.format(), protocol.adjust(V2), protocol.adjust(V1_ZSTD)), (V1_ZSTD, V1, V1_ZSTD));
        assert!(protocol.set_refuses_zstd() && !protocol.set_refuses_zstd());
        assert_eq!((protocol.format(), protocol.adjust(V1_ZSTD)), (V1, V1));
        assert!(protocol.set_refuses_v1() && protocol.set_refuses_v1());
        assert_eq!((protocol.format(), protocol.adjust(V1)), (V2, V2));
        assert!(!protocol.may_downgrade());
        let protocol = Protocol::new(Message::V1);
        assert!(!protocol.set_refuses_v1(), "2.0 is not wanted");
        assert_eq!((protocol.format(), protocol.adjust(V1)), (V1, V1));
    }
}

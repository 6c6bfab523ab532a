//! Where readers of endpoints that get equal batches find each other.
//!
//! One of them is the host. The others ask it, once they have read all there is, to take their endpoints over. The host offers
//! the position where it stands and waits for a moment; a reader that gets there hands its endpoints over and ends. So
//! nothing is left out or sent twice, and a host that is busy or stuck costs the others nothing but the gain.

use crate::batch::BatchSettings;
use crate::cursor::SendCursor;
use crate::output::Outputs;
use crate::protocol::Format;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Without having read everything for so long, a host is one no more.
const HOST_FOR: Duration = Duration::from_secs(5);

/// A reader that wants to hand its endpoints over.
pub struct Guest {
    /// Has room for one offer.
    pub offers: SyncSender<Offer>,
}

/// What the host says.
pub struct Offer {
    /// Where it stands.
    pub cursor: SendCursor,
    /// Takes the endpoints of a guest that stands there as well. It has room for nothing, so they are either with the
    /// host or stay with the guest.
    pub outputs: SyncSender<Outputs>,
}

/// What a reader is to those with equal batches.
pub enum Role {
    /// It takes the endpoints of others.
    Host,
    /// There is a host.
    Guest(Sender<Guest>),
}

struct Host {
    reader: u64,
    settings: BatchSettings,
    format: Format,
    guests: Sender<Guest>,
    /// When it had read everything last.
    seen: Instant,
}

/// All hosts.
#[derive(Default)]
pub struct Hosts(Mutex<Vec<Host>>);

impl Hosts {
    /// The role of a reader that has read everything. `guests` are those of the reader, if it has been a host.
    pub fn role(
        &self,
        reader: u64,
        settings: &BatchSettings,
        format: Format,
        guests: &mut Option<Receiver<Guest>>,
    ) -> Role {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.retain(|host| match host.reader == reader {
            true => guests.is_some() && host.format == format,
            false => host.seen.elapsed() < HOST_FOR,
        });
        match hosts.iter_mut().find(|host| host.format == format && host.settings == *settings) {
            Some(host) if host.reader == reader => {
                host.seen = Instant::now();
                Role::Host
            }
            Some(host) => {
                *guests = None;
                Role::Guest(host.guests.clone())
            }
            None => {
                let (to, from) = channel();
                *guests = Some(from);
                hosts.push(Host { reader, settings: settings.clone(), format, guests: to, seen: Instant::now() });
                Role::Host
            }
        }
    }

    /// A reader ends.
    pub fn leave(&self, reader: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|host| host.reader != reader);
    }
}

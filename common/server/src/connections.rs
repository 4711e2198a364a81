//! The connections of one port, each with its place in the ledger and a way to be told to go.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::ledger::{Eviction, Id, Ledger, Limits, Room};

/// How often a body that waits for room looks whether somebody else has stalled.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What a connection is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing.
    Stay,
    /// To finish what it has begun, and to take no more.
    Drain,
    /// To end at once.
    Close,
}

/// The connections of one port.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    books: Mutex<Books>,
    freed: Notify,
    shed: Counter,
}

#[derive(Debug)]
struct Books {
    ledger: Ledger,
    told: HashMap<Id, watch::Sender<Told>>,
}

impl Connections {
    /// None yet. Connections closed to make room are counted in `shed`.
    #[must_use]
    pub fn new(limits: Limits, shed: Counter) -> Self {
        let books = Books {
            ledger: Ledger::new(limits),
            told: HashMap::new(),
        };
        Self(Arc::new(Shared {
            books: Mutex::new(books),
            freed: Notify::new(),
            shed,
        }))
    }

    /// Takes in a connection. Another may have to give way for it.
    pub(crate) fn open(&self, peer: IpAddr) -> Connection {
        let mut books = self.books();
        let mut evicted = Vec::new();
        // An IPv4 client is one peer, whichever kind of socket it reaches.
        let id = books.ledger.open(peer.to_canonical(), &mut evicted);
        let (told, tells) = watch::channel(Told::Stay);
        books.told.insert(id, told);
        self.tell(&mut books, &evicted);
        Connection {
            place: Place {
                connections: self.clone(),
                id,
                begun: Arc::default(),
                http2: Arc::default(),
                leaving: Arc::default(),
            },
            tells,
        }
    }

    /// Tells every connection to finish.
    pub(crate) fn drain(&self) {
        for told in self.books().told.values() {
            told.send_replace(Told::Drain);
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, books: &mut Books, evicted: &[Eviction]) {
        for eviction in evicted {
            let (id, what) = match *eviction {
                Eviction::Drain(id) => (id, Told::Drain),
                Eviction::Close(id) => (id, Told::Close),
            };
            if let Some(told) = books.told.get(&id) {
                told.send_replace(what);
            }
            self.0.shed.inc();
        }
    }
}

/// One connection; dropping it strikes it out.
#[derive(Debug)]
pub struct Connection {
    place: Place,
    tells: watch::Receiver<Told>,
}

impl Connection {
    /// Its place, for its requests.
    pub fn place(&self) -> Place {
        self.place.clone()
    }

    /// Whether any request has begun on it.
    pub fn has_begun(&self) -> bool {
        self.place.begun.load(Ordering::Relaxed)
    }

    /// Whether it speaks HTTP/2, as far as is known.
    pub fn speaks_http2(&self) -> bool {
        self.place.http2.load(Ordering::Relaxed)
    }

    /// Its next answer tells the client to close it.
    pub fn leave(&self) {
        self.place.leaving.store(true, Ordering::Relaxed);
    }

    /// Waits until it is told to drain or to close.
    pub async fn told(&mut self) -> Told {
        self.wait_for(|told| told != Told::Stay).await
    }

    /// Waits until it is told to close.
    pub async fn closed(&mut self) {
        self.wait_for(|told| told == Told::Close).await;
    }

    async fn wait_for(&mut self, heard: impl Fn(Told) -> bool) -> Told {
        // The sender lives in the books until this connection is struck out.
        let told = self.tells.wait_for(|told| heard(*told)).await;
        told.map_or(Told::Close, |told| *told)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut books = self.place.connections.books();
        books.ledger.close(self.place.id);
        books.told.remove(&self.place.id);
        drop(books);
        self.place.connections.0.freed.notify_waiters();
    }
}

/// A connection's place in the ledger.
#[derive(Clone, Debug)]
pub struct Place {
    connections: Connections,
    id: Id,
    begun: Arc<AtomicBool>,
    http2: Arc<AtomicBool>,
    leaving: Arc<AtomicBool>,
}

impl Place {
    /// Remembers that it speaks HTTP/2.
    pub fn note_http2(&self) {
        self.http2.store(true, Ordering::Relaxed);
    }

    /// Whether answers tell the client to close the connection.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Enters a request that will hold so many bytes; `None` where there is no room for it.
    pub fn begin(&self, bytes: usize) -> Option<Charge> {
        self.begun.store(true, Ordering::Relaxed);
        let mut books = self.connections.books();
        let mut evicted = Vec::new();
        let request = books.ledger.begin(self.id, bytes, Instant::now(), &mut evicted);
        self.connections.tell(&mut books, &evicted);
        drop(books);
        Some(Charge {
            connections: self.connections.clone(),
            connection: self.id,
            request: request?,
            reserved: AtomicBool::new(false),
        })
    }
}

/// What a request holds; dropping it gives it back.
#[derive(Debug)]
pub struct Charge {
    connections: Connections,
    connection: Id,
    request: Id,
    reserved: AtomicBool,
}

/// The request had to give way.
#[derive(Debug)]
pub struct Evicted;

impl Charge {
    /// Waits until there is room for so many bytes more.
    pub async fn reserve(&self, bytes: usize) -> Result<(), Evicted> {
        loop {
            let freed = self.connections.0.freed.notified();
            match self.try_reserve(bytes) {
                Room::Granted => {
                    self.reserved.store(true, Ordering::Relaxed);
                    return Ok(());
                }
                Room::Gone => return Err(Evicted),
                Room::Later => _ = timeout(LOOK_AGAIN, freed).await,
            }
        }
    }

    /// Gives back all that was reserved.
    pub fn release(&self) {
        if !self.reserved.load(Ordering::Relaxed) {
            return;
        }
        self.connections
            .books()
            .ledger
            .release(self.connection, self.request);
        self.connections.0.freed.notify_waiters();
    }

    fn try_reserve(&self, bytes: usize) -> Room {
        let mut books = self.connections.books();
        let mut evicted = Vec::new();
        let now = Instant::now();
        let room = books
            .ledger
            .reserve(self.connection, self.request, bytes, now, &mut evicted);
        self.connections.tell(&mut books, &evicted);
        room
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.connections.books().ledger.end(self.connection, self.request);
        self.connections.0.freed.notify_waiters();
    }
}

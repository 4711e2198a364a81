//! The connections of one port, each with its entry in the ledger and a channel by which it is instructed to go.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::ledger::{Eviction, Id, Ledger, Limits, Room};

/// How often a body that waits for room checks whether another request has stalled meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What the ledger has a connection do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// Go on.
    Stay,
    /// Finish the requests that have begun, and accept no more.
    Drain,
    /// End at once.
    Close,
}

/// The connections of one port.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    freed: Notify,
    shed: Counter,
}

#[derive(Debug)]
struct State {
    ledger: Ledger,
    instructions: HashMap<Id, watch::Sender<Instruction>>,
}

impl Connections {
    /// No connections yet. Those that are closed to make room are counted in `shed`.
    #[must_use]
    pub fn new(limits: Limits, shed: Counter) -> Self {
        let state = State {
            ledger: Ledger::new(limits),
            instructions: HashMap::new(),
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            freed: Notify::new(),
            shed,
        }))
    }

    /// Enters a new connection. Another one may have to give way for it.
    pub(crate) fn open(&self, peer: IpAddr) -> Connection {
        let mut state = self.state();
        let mut evicted = Vec::new();
        // An IPv4 client is one peer, whichever kind of socket it reaches.
        let id = state.ledger.open(peer.to_canonical(), &mut evicted);
        let (sender, instruction) = watch::channel(Instruction::Stay);
        state.instructions.insert(id, sender);
        self.instruct(&state, &evicted);
        Connection {
            handle: Handle {
                connections: self.clone(),
                id,
                begun: Arc::default(),
                http2: Arc::default(),
                leaving: Arc::default(),
            },
            instruction,
        }
    }

    /// Has every connection finish its requests and end.
    pub(crate) fn drain(&self) {
        for sender in self.state().instructions.values() {
            sender.send_replace(Instruction::Drain);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn instruct(&self, state: &State, evicted: &[Eviction]) {
        for eviction in evicted {
            let (id, instruction) = match *eviction {
                Eviction::Drain(id) => (id, Instruction::Drain),
                Eviction::Close(id) => (id, Instruction::Close),
            };
            if let Some(sender) = state.instructions.get(&id) {
                sender.send_replace(instruction);
            }
            self.0.shed.inc();
        }
    }
}

/// One connection; dropping it removes it from the ledger.
#[derive(Debug)]
pub struct Connection {
    handle: Handle,
    instruction: watch::Receiver<Instruction>,
}

impl Connection {
    /// A handle to it, for its requests.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Whether any request has begun on it.
    pub fn has_begun(&self) -> bool {
        self.handle.begun.load(Ordering::Relaxed)
    }

    /// Whether it speaks HTTP/2, as far as is known.
    pub fn speaks_http2(&self) -> bool {
        self.handle.http2.load(Ordering::Relaxed)
    }

    /// Has its next answer tell the client to close it.
    pub fn leave(&self) {
        self.handle.leaving.store(true, Ordering::Relaxed);
    }

    /// Waits until it must drain or close.
    pub async fn instructed(&mut self) -> Instruction {
        self.wait_for(|instruction| instruction != Instruction::Stay)
            .await
    }

    /// Waits until it must close.
    pub async fn closed(&mut self) {
        self.wait_for(|instruction| instruction == Instruction::Close)
            .await;
    }

    async fn wait_for(&mut self, awaited: impl Fn(Instruction) -> bool) -> Instruction {
        // The sender is kept until this connection is dropped.
        let instruction = self.instruction.wait_for(|now| awaited(*now)).await;
        instruction.map_or(Instruction::Close, |now| *now)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut state = self.handle.connections.state();
        state.ledger.close(self.handle.id);
        state.instructions.remove(&self.handle.id);
        drop(state);
        self.handle.connections.0.freed.notify_waiters();
    }
}

/// What the requests of a connection know of it.
#[derive(Clone, Debug)]
pub struct Handle {
    connections: Connections,
    id: Id,
    begun: Arc<AtomicBool>,
    http2: Arc<AtomicBool>,
    leaving: Arc<AtomicBool>,
}

impl Handle {
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
        let mut state = self.connections.state();
        let mut evicted = Vec::new();
        let request = state.ledger.begin(self.id, bytes, Instant::now(), &mut evicted);
        self.connections.instruct(&state, &evicted);
        drop(state);
        Some(Charge {
            connections: self.connections.clone(),
            connection: self.id,
            request: request?,
            reserved: AtomicBool::new(false),
        })
    }
}

/// The bytes that a request holds; dropping the charge gives them back.
#[derive(Debug)]
pub struct Charge {
    connections: Connections,
    connection: Id,
    request: Id,
    reserved: AtomicBool,
}

/// The request had to give way to another.
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

    /// Gives back all bytes that were reserved.
    pub fn release(&self) {
        if !self.reserved.load(Ordering::Relaxed) {
            return;
        }
        self.connections
            .state()
            .ledger
            .release(self.connection, self.request);
        self.connections.0.freed.notify_waiters();
    }

    fn try_reserve(&self, bytes: usize) -> Room {
        let mut state = self.connections.state();
        let mut evicted = Vec::new();
        let now = Instant::now();
        let room = state
            .ledger
            .reserve(self.connection, self.request, bytes, now, &mut evicted);
        self.connections.instruct(&state, &evicted);
        room
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.connections.state().ledger.end(self.connection, self.request);
        self.connections.0.freed.notify_waiters();
    }
}

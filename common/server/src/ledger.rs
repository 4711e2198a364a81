//! The ledger of connections and the bytes of their requests: which peer holds what, and which connection gives way
//! when there is no room.
//!
//! Pure: no sockets, no clock. Each decision is one scan over the connections, made only when there is no room.
//!
//! The peer that holds most gives way, if that is many, and of its connections the one that has waited longest. A client
//! that finishes its requests, as the API server does, is always among the youngest: it outlasts any number of connections
//! that do nothing, from many addresses or from its own.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A request that is older than this and has not arrived whole gives way to others' large bodies.
const STALL: Duration = Duration::from_secs(1);
/// One in so many connections may be on its way out.
const LEAVING_SHARE: usize = 4;
/// One in so many connections is what one peer may hold without being the first to give way.
const FEW_SHARE: usize = 16;

/// How much there is room for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections, those on their way out not counted.
    pub connections: usize,
    /// Bytes of all requests. One peer may hold half of them, and large bodies together half of them.
    pub bytes: usize,
}

impl Limits {
    /// The limits of a plain port: enough for the kubelet, a scraper or two, and a person with curl.
    #[must_use]
    pub const fn for_probes() -> Self {
        Self {
            connections: 64,
            bytes: 8 << 20,
        }
    }
}

/// Names a connection or a request: both are numbered in the order in which they came.
pub type Id = u64;

/// A connection that gives way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// It is idle: it is drained, and may finish what it begins meanwhile.
    Drain(Id),
    /// It is closed at once.
    Close(Id),
}

/// The answer to a request for more room.
#[derive(Debug, PartialEq, Eq)]
pub enum Room {
    /// There is room, and the request has it now.
    Granted,
    /// Not now: the requests that hold it may finish soon.
    Later,
    /// Never: the request itself was evicted.
    Gone,
}

/// All connections of a port, and the sums over them.
#[derive(Debug)]
pub struct Ledger {
    limits: Limits,
    connections: HashMap<Id, Connection>,
    peers: HashMap<IpAddr, Peer>,
    bytes: usize,
    large: usize,
    leaving: usize,
    next: Id,
}

#[derive(Debug)]
struct Connection {
    peer: IpAddr,
    /// When it was opened, or last finished all its requests: a number from the sequence of [`Id`]s.
    idle_since: Id,
    requests: Vec<Request>,
    leaving: bool,
}

#[derive(Debug)]
struct Request {
    id: Id,
    began: Instant,
    bytes: usize,
    /// How many of the bytes are reserved for a large body.
    large: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    connections: usize,
    bytes: usize,
}

impl Ledger {
    /// An empty ledger.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            connections: HashMap::new(),
            peers: HashMap::new(),
            bytes: 0,
            large: 0,
            leaving: 0,
            next: 0,
        }
    }

    /// Enters a new connection, always; `evicted` gets the connections that give way for it.
    pub fn open(&mut self, peer: IpAddr, evicted: &mut Vec<Eviction>) -> Id {
        if self.connections.len() - self.leaving >= self.limits.connections {
            evicted.extend(self.make_room_for_a_connection());
        }
        let id = self.number();
        self.peers.entry(peer).or_default().connections += 1;
        let connection = Connection {
            peer,
            idle_since: id,
            requests: Vec::new(),
            leaving: false,
        };
        self.connections.insert(id, connection);
        id
    }

    /// Removes a connection, with its requests.
    pub fn close(&mut self, id: Id) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        self.leaving -= usize::from(connection.leaving);
        let bytes = connection.bytes();
        self.bytes -= bytes;
        self.large -= connection
            .requests
            .iter()
            .map(|request| request.large)
            .sum::<usize>();
        self.change_peer(connection.peer, |peer| {
            peer.connections -= usize::from(!connection.leaving);
            peer.bytes -= bytes;
        });
    }

    /// Enters a request of so many bytes; `None` where even evicting others makes no room, or the connection has ended.
    pub fn begin(
        &mut self,
        connection: Id,
        bytes: usize,
        now: Instant,
        evicted: &mut Vec<Eviction>,
    ) -> Option<Id> {
        let peer = self.connections.get(&connection)?.peer;
        loop {
            let within_share = self.peer(peer).bytes + bytes <= self.limits.bytes / 2;
            if within_share && self.bytes + bytes <= self.limits.bytes {
                break;
            }
            let victim = self.busiest(connection, |other| within_share || other.peer == peer)?;
            self.close(victim);
            evicted.push(Eviction::Close(victim));
        }
        let id = self.number();
        let request = Request {
            id,
            began: now,
            bytes,
            large: 0,
        };
        self.connections.get_mut(&connection)?.requests.push(request);
        self.bytes += bytes;
        self.change_peer(peer, |peer| peer.bytes += bytes);
        Some(id)
    }

    /// Reserves so many bytes more for a request's large body. Other requests with large bodies give way only once they
    /// have stalled.
    pub fn reserve(
        &mut self,
        connection: Id,
        request: Id,
        bytes: usize,
        now: Instant,
        evicted: &mut Vec<Eviction>,
    ) -> Room {
        let Some(peer) = self
            .connections
            .get(&connection)
            .map(|connection| connection.peer)
        else {
            return Room::Gone;
        };
        loop {
            let within_share = self.peer(peer).bytes + bytes <= self.limits.bytes / 2;
            let room = self.large + bytes <= self.limits.bytes / 2 && self.bytes + bytes <= self.limits.bytes;
            if within_share && room {
                break;
            }
            let stalled = |other: &Connection| {
                let mut requests = other.requests.iter();
                (within_share || other.peer == peer)
                    && requests.any(|request| request.large > 0 && request.began + STALL <= now)
            };
            let Some(victim) = self.busiest(connection, stalled) else {
                return Room::Later;
            };
            self.close(victim);
            evicted.push(Eviction::Close(victim));
        }
        let Some(request) = self.request(connection, request) else {
            return Room::Gone;
        };
        request.bytes += bytes;
        request.large += bytes;
        self.bytes += bytes;
        self.large += bytes;
        self.change_peer(peer, |peer| peer.bytes += bytes);
        Room::Granted
    }

    /// Takes back what was reserved for a request's large body.
    pub fn release(&mut self, connection: Id, request: Id) {
        let Some(request) = self.request(connection, request) else {
            return;
        };
        let large = std::mem::take(&mut request.large);
        request.bytes -= large;
        self.give_back(connection, large, large);
    }

    /// Removes a request.
    pub fn end(&mut self, connection: Id, request: Id) {
        let now = self.number();
        let Some(found) = self.connections.get_mut(&connection) else {
            return;
        };
        let Some(position) = found.requests.iter().position(|held| held.id == request) else {
            return;
        };
        let request = found.requests.swap_remove(position);
        if found.requests.is_empty() {
            found.idle_since = now;
        }
        self.give_back(connection, request.bytes, request.large);
    }

    fn number(&mut self) -> Id {
        self.next += 1;
        self.next
    }

    fn peer(&self, peer: IpAddr) -> Peer {
        self.peers.get(&peer).copied().unwrap_or_default()
    }

    fn change_peer(&mut self, address: IpAddr, change: impl FnOnce(&mut Peer)) {
        let peer = self.peers.entry(address).or_default();
        change(peer);
        if peer.connections == 0 && peer.bytes == 0 {
            self.peers.remove(&address);
        }
    }

    fn request(&mut self, connection: Id, request: Id) -> Option<&mut Request> {
        let mut requests = self.connections.get_mut(&connection)?.requests.iter_mut();
        requests.find(|held| held.id == request)
    }

    fn give_back(&mut self, connection: Id, bytes: usize, large: usize) {
        self.bytes -= bytes;
        self.large -= large;
        if let Some(connection) = self.connections.get(&connection) {
            self.change_peer(connection.peer, |peer| peer.bytes -= bytes);
        }
    }

    /// The connection to close for bytes: of the peer that holds most, the one whose oldest request is oldest.
    fn busiest(&self, but: Id, may: impl Fn(&Connection) -> bool) -> Option<Id> {
        let busy = self.connections.iter();
        let busy = busy.filter(|(id, other)| **id != but && !other.requests.is_empty() && may(other));
        let held =
            |(_, other): &(&Id, &Connection)| (self.peer(other.peer).bytes, Reverse(other.waits_since()));
        busy.max_by_key(held).map(|(id, _)| *id)
    }

    /// The connections to end for a new one: of the peer that holds most, if that is many; and the one that has been idle
    /// longest. A peer that holds a few must not be the one to give way because each of many others holds less.
    fn make_room_for_a_connection(&mut self) -> Vec<Eviction> {
        let staying = self.connections.iter().filter(|(_, other)| !other.leaving);
        let few = self.limits.connections / FEW_SHARE;
        let burden = |(_, other): &(&Id, &Connection)| {
            let idle = other.requests.is_empty();
            let held = self.peer(other.peer).connections;
            (
                if held > few { held } else { 0 },
                idle,
                Reverse(other.waits_since()),
            )
        };
        let Some(id) = staying.max_by_key(burden).map(|(id, _)| *id) else {
            return Vec::new();
        };
        let mut evicted = Vec::new();
        match self.connections.get_mut(&id) {
            Some(victim) if victim.requests.is_empty() => {
                victim.leaving = true;
                self.leaving += 1;
                let peer = victim.peer;
                self.change_peer(peer, |peer| peer.connections -= 1);
                evicted.push(Eviction::Drain(id));
            }
            _ => {
                self.close(id);
                evicted.push(Eviction::Close(id));
            }
        }
        if self.leaving > self.limits.connections / LEAVING_SHARE {
            let leaving = self.connections.iter().filter(|(_, other)| other.leaving);
            let first = leaving
                .min_by_key(|(_, other)| other.waits_since())
                .map(|(id, _)| *id);
            if let Some(first) = first {
                self.close(first);
                evicted.retain(|eviction| *eviction != Eviction::Drain(first));
                evicted.push(Eviction::Close(first));
            }
        }
        evicted
    }
}

impl Connection {
    fn bytes(&self) -> usize {
        self.requests.iter().map(|request| request.bytes).sum()
    }

    /// When its oldest request began, or its idleness.
    fn waits_since(&self) -> Id {
        let oldest = self.requests.iter().map(|request| request.id).min();
        oldest.unwrap_or(self.idle_since)
    }
}

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

const ATTACKER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 66));
const API_SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const LIMITS: Limits = Limits {
    connections: 8,
    bytes: 1000,
};

struct Harness {
    ledger: Ledger,
    evicted: Vec<Eviction>,
    now: Instant,
}

impl Harness {
    fn new() -> Self {
        Self {
            ledger: Ledger::new(LIMITS),
            evicted: Vec::new(),
            now: Instant::now(),
        }
    }

    fn open(&mut self, peer: IpAddr) -> Id {
        self.ledger.open(peer, &mut self.evicted)
    }

    fn begin(&mut self, connection: Id, bytes: usize) -> Option<Id> {
        self.ledger.begin(connection, bytes, self.now, &mut self.evicted)
    }

    fn reserve(&mut self, connection: Id, request: Id, bytes: usize) -> Room {
        self.ledger
            .reserve(connection, request, bytes, self.now, &mut self.evicted)
    }

    fn evicted(&mut self) -> Vec<Eviction> {
        std::mem::take(&mut self.evicted)
    }
}

#[test]
fn the_longest_idle_connection_of_the_largest_peer_gives_way() {
    let mut harness = Harness::new();
    let quiet = harness.open(API_SERVER);
    let idle: Vec<_> = (0..7).map(|_| harness.open(ATTACKER)).collect();
    harness.open(ATTACKER);
    harness.open(API_SERVER);
    assert_eq!(
        harness.evicted(),
        [Eviction::Drain(idle[0]), Eviction::Drain(idle[1])],
        "not {quiet}, which is older"
    );
}

#[test]
fn a_client_that_finishes_requests_outlasts_idle_connections_of_the_same_address() {
    let mut harness = Harness::new();
    let api_server = harness.open(ATTACKER);
    for _ in 0..100 {
        harness.open(ATTACKER);
        let request = harness.begin(api_server, 10).unwrap();
        harness.ledger.end(api_server, request);
    }
    let gone = harness.evicted();
    assert!(!gone.contains(&Eviction::Drain(api_server)) && !gone.contains(&Eviction::Close(api_server)));
}

#[test]
fn few_connections_drain_at_a_time() {
    let mut harness = Harness::new();
    for _ in 0..8 + 3 {
        harness.open(ATTACKER);
    }
    let first = harness.evicted().remove(0);
    assert_eq!(first, Eviction::Drain(1));
    assert_eq!(
        (harness.ledger.connections.len(), harness.ledger.leaving),
        (10, 2)
    );
    assert!(!harness.ledger.connections.contains_key(&1));
}

#[test]
fn a_draining_connection_may_still_begin_a_request() {
    let mut harness = Harness::new();
    let idle: Vec<_> = (0..9).map(|_| harness.open(ATTACKER)).collect();
    assert_eq!(harness.evicted(), [Eviction::Drain(idle[0])]);
    let request = harness.begin(idle[0], 10).unwrap();
    harness.ledger.end(idle[0], request);
}

#[test]
fn busy_connections_give_way_where_none_is_idle() {
    let mut harness = Harness::new();
    let busy: Vec<_> = (0..8).map(|_| harness.open(ATTACKER)).collect();
    for connection in busy.iter().rev() {
        harness.begin(*connection, 10).unwrap();
    }
    harness.open(API_SERVER);
    assert_eq!(harness.evicted(), [Eviction::Close(busy[7])]);
}

#[test]
fn a_peer_that_holds_a_few_does_not_give_way_to_many_that_hold_less() {
    let mut harness = Harness::new();
    harness.ledger.limits.connections = 64;
    let asks: Vec<_> = (0..3)
        .map(|_| {
            let connection = harness.open(API_SERVER);
            harness.begin(connection, 10).unwrap();
            connection
        })
        .collect();
    for last in 0..200 {
        harness.open(IpAddr::V4(Ipv4Addr::new(10, 0, 1, last)));
    }
    let gone = harness.evicted();
    assert!(gone.len() >= 139, "{gone:?}");
    for connection in asks {
        assert!(!gone.contains(&Eviction::Drain(connection)) && !gone.contains(&Eviction::Close(connection)));
    }
}

#[test]
fn a_peer_that_holds_its_share_displaces_itself_alone() {
    let mut harness = Harness::new();
    let other = harness.open(API_SERVER);
    harness.begin(other, 400).unwrap();
    let first = harness.open(ATTACKER);
    harness.begin(first, 300).unwrap();
    let second = harness.open(ATTACKER);
    harness.begin(second, 300).unwrap();
    assert_eq!(harness.evicted(), [Eviction::Close(first)]);
    assert_eq!(
        harness.begin(second, 300),
        None,
        "a connection does not displace itself"
    );
    assert!(harness.begin(other, 100).is_some());
    assert_eq!(harness.evicted(), []);
}

#[test]
fn the_peer_that_holds_most_gives_way_when_all_is_taken() {
    let mut harness = Harness::new();
    let mut of = |last: u8, bytes| {
        let connection = harness.open(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)));
        harness.begin(connection, bytes).unwrap();
        (connection, harness.evicted())
    };
    of(1, 200);
    let (largest, _) = of(2, 400);
    of(3, 300);
    assert_eq!(of(4, 200).1, [Eviction::Close(largest)]);
}

#[test]
fn large_bodies_wait_for_each_other_until_one_stalls() {
    let mut harness = Harness::new();
    let (slow, fast) = (harness.open(ATTACKER), harness.open(API_SERVER));
    let held = harness.begin(slow, 10).unwrap();
    assert_eq!(harness.reserve(slow, held, 400), Room::Granted);
    let waiting = harness.begin(fast, 10).unwrap();
    assert_eq!(harness.reserve(fast, waiting, 400), Room::Later);
    assert_eq!(harness.evicted(), []);

    harness.now += Duration::from_millis(999);
    assert_eq!(harness.reserve(fast, waiting, 400), Room::Later);
    assert_eq!(harness.evicted(), []);
    harness.now += Duration::from_millis(1);
    assert_eq!(harness.reserve(fast, waiting, 400), Room::Granted);
    assert_eq!(harness.evicted(), [Eviction::Close(slow)]);
    assert_eq!(harness.reserve(slow, held, 1), Room::Gone);
}

#[test]
fn what_is_released_is_there_for_others() {
    let mut harness = Harness::new();
    let (one, other) = (harness.open(API_SERVER), harness.open(API_SERVER));
    let (first, second) = (harness.begin(one, 10).unwrap(), harness.begin(other, 10).unwrap());
    assert_eq!(harness.reserve(one, first, 400), Room::Granted);
    assert_eq!(harness.reserve(other, second, 400), Room::Later);
    harness.ledger.release(one, first);
    assert_eq!(harness.reserve(other, second, 400), Room::Granted);
}

#[derive(Clone, Debug)]
enum Step {
    Open(u8),
    Close(usize),
    Begin(usize, usize),
    Reserve(usize, usize),
    Release(usize),
    End(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_u8).prop_map(Step::Open),
        1 => (0..40_usize).prop_map(Step::Close),
        6 => (0..40_usize, 1..300_usize).prop_map(|(who, bytes)| Step::Begin(who, bytes)),
        4 => (0..40_usize, 1..500_usize).prop_map(|(who, bytes)| Step::Reserve(who, bytes)),
        1 => (0..40_usize).prop_map(Step::Release),
        3 => (0..40_usize).prop_map(Step::End),
        1 => (0..3000_u64).prop_map(Step::Wait),
    ]
}

/// Counts what is held again, and compares it with the sums that the ledger keeps.
fn assert_balanced(ledger: &Ledger) {
    let all = || ledger.connections.values();
    let bytes: usize = all().map(Connection::bytes).sum();
    let large: usize = all()
        .flat_map(|connection| &connection.requests)
        .map(|request| request.large)
        .sum();
    let leaving = all().filter(|connection| connection.leaving).count();
    assert_eq!(
        (ledger.bytes, ledger.large, ledger.leaving),
        (bytes, large, leaving)
    );
    assert!(bytes <= LIMITS.bytes && large <= LIMITS.bytes / 2);
    assert!(ledger.connections.len() - leaving <= LIMITS.connections);
    assert!(leaving <= LIMITS.connections / LEAVING_SHARE);
    let peers: BTreeSet<_> = all().map(|connection| connection.peer).collect();
    for peer in peers {
        let its = || all().filter(|connection| connection.peer == peer);
        let held = ledger.peer(peer);
        assert_eq!(held.bytes, its().map(Connection::bytes).sum::<usize>());
        assert_eq!(
            held.connections,
            its().filter(|connection| !connection.leaving).count()
        );
        assert!(held.bytes <= LIMITS.bytes / 2);
    }
    for (address, held) in &ledger.peers {
        assert!(
            held.connections + held.bytes > 0,
            "{address} is forgotten when it has gone"
        );
    }
}

proptest! {
    #[test]
    fn the_sums_hold_and_no_limit_is_exceeded(steps in prop::collection::vec(step(), 0..120)) {
        let mut harness = Harness::new();
        let mut connections = Vec::new();
        let mut requests = Vec::new();
        for step in steps {
            match step {
                Step::Open(last) => connections.push(harness.open(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)))),
                Step::Wait(millis) => harness.now += Duration::from_millis(millis),
                Step::Close(who) => {
                    if let Some(id) = connections.get(who) {
                        harness.ledger.close(*id);
                    }
                }
                Step::Begin(who, bytes) => {
                    if let Some(id) = connections.get(who)
                        && let Some(request) = harness.begin(*id, bytes)
                    {
                        requests.push((*id, request));
                    }
                }
                Step::Reserve(who, bytes) => {
                    if let Some((connection, request)) = requests.get(who) {
                        harness.reserve(*connection, *request, bytes);
                    }
                }
                Step::Release(who) => {
                    if let Some((connection, request)) = requests.get(who) {
                        harness.ledger.release(*connection, *request);
                    }
                }
                Step::End(who) => {
                    if let Some((connection, request)) = requests.get(who) {
                        harness.ledger.end(*connection, *request);
                    }
                }
            }
            assert_balanced(&harness.ledger);
        }
    }
}

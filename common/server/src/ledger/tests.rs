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

struct Books {
    ledger: Ledger,
    evicted: Vec<Eviction>,
    now: Instant,
}

impl Books {
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
    let mut books = Books::new();
    let quiet = books.open(API_SERVER);
    let idle: Vec<_> = (0..7).map(|_| books.open(ATTACKER)).collect();
    books.open(ATTACKER);
    books.open(API_SERVER);
    assert_eq!(
        books.evicted(),
        [Eviction::Drain(idle[0]), Eviction::Drain(idle[1])],
        "not {quiet}, which is older"
    );
}

#[test]
fn who_finishes_requests_outlasts_idle_connections_of_the_same_address() {
    let mut books = Books::new();
    let api_server = books.open(ATTACKER);
    for _ in 0..100 {
        books.open(ATTACKER);
        let request = books.begin(api_server, 10).unwrap();
        books.ledger.end(api_server, request);
    }
    let gone = books.evicted();
    assert!(!gone.contains(&Eviction::Drain(api_server)) && !gone.contains(&Eviction::Close(api_server)));
}

#[test]
fn few_are_on_their_way_out_at_a_time() {
    let mut books = Books::new();
    for _ in 0..8 + 3 {
        books.open(ATTACKER);
    }
    let first = books.evicted().remove(0);
    assert_eq!(first, Eviction::Drain(1));
    assert_eq!((books.ledger.connections.len(), books.ledger.leaving), (10, 2));
    assert!(!books.ledger.connections.contains_key(&1));
}

#[test]
fn a_connection_that_was_told_to_go_may_still_ask() {
    let mut books = Books::new();
    let idle: Vec<_> = (0..9).map(|_| books.open(ATTACKER)).collect();
    assert_eq!(books.evicted(), [Eviction::Drain(idle[0])]);
    let request = books.begin(idle[0], 10).unwrap();
    books.ledger.end(idle[0], request);
}

#[test]
fn busy_connections_give_way_where_none_is_idle() {
    let mut books = Books::new();
    let busy: Vec<_> = (0..8).map(|_| books.open(ATTACKER)).collect();
    for connection in busy.iter().rev() {
        books.begin(*connection, 10).unwrap();
    }
    books.open(API_SERVER);
    assert_eq!(books.evicted(), [Eviction::Close(busy[7])]);
}

#[test]
fn a_peer_that_holds_a_few_does_not_give_way_to_many_that_hold_less() {
    let mut books = Books::new();
    books.ledger.limits.connections = 64;
    let asks: Vec<_> = (0..3)
        .map(|_| {
            let connection = books.open(API_SERVER);
            books.begin(connection, 10).unwrap();
            connection
        })
        .collect();
    for last in 0..200 {
        books.open(IpAddr::V4(Ipv4Addr::new(10, 0, 1, last)));
    }
    let gone = books.evicted();
    assert!(gone.len() >= 139, "{gone:?}");
    for connection in asks {
        assert!(!gone.contains(&Eviction::Drain(connection)) && !gone.contains(&Eviction::Close(connection)));
    }
}

#[test]
fn a_peer_that_holds_its_share_displaces_itself_alone() {
    let mut books = Books::new();
    let other = books.open(API_SERVER);
    books.begin(other, 400).unwrap();
    let first = books.open(ATTACKER);
    books.begin(first, 300).unwrap();
    let second = books.open(ATTACKER);
    books.begin(second, 300).unwrap();
    assert_eq!(books.evicted(), [Eviction::Close(first)]);
    assert_eq!(
        books.begin(second, 300),
        None,
        "a connection does not displace itself"
    );
    assert!(books.begin(other, 100).is_some());
    assert_eq!(books.evicted(), []);
}

#[test]
fn the_greediest_peer_gives_way_when_all_is_taken() {
    let mut books = Books::new();
    let mut of = |last: u8, bytes| {
        let connection = books.open(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)));
        books.begin(connection, bytes).unwrap();
        (connection, books.evicted())
    };
    of(1, 200);
    let (greedy, _) = of(2, 400);
    of(3, 300);
    assert_eq!(of(4, 200).1, [Eviction::Close(greedy)]);
}

#[test]
fn large_bodies_wait_for_each_other_until_one_stalls() {
    let mut books = Books::new();
    let (slow, fast) = (books.open(ATTACKER), books.open(API_SERVER));
    let held = books.begin(slow, 10).unwrap();
    assert_eq!(books.reserve(slow, held, 400), Room::Granted);
    let waiting = books.begin(fast, 10).unwrap();
    assert_eq!(books.reserve(fast, waiting, 400), Room::Later);
    assert_eq!(books.evicted(), []);

    books.now += STALL;
    assert_eq!(books.reserve(fast, waiting, 400), Room::Granted);
    assert_eq!(books.evicted(), [Eviction::Close(slow)]);
    assert_eq!(books.reserve(slow, held, 1), Room::Gone);
}

#[test]
fn what_is_released_is_there_for_others() {
    let mut books = Books::new();
    let (one, other) = (books.open(API_SERVER), books.open(API_SERVER));
    let (first, second) = (books.begin(one, 10).unwrap(), books.begin(other, 10).unwrap());
    assert_eq!(books.reserve(one, first, 400), Room::Granted);
    assert_eq!(books.reserve(other, second, 400), Room::Later);
    books.ledger.release(one, first);
    assert_eq!(books.reserve(other, second, 400), Room::Granted);
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

/// What is held, counted anew.
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
    fn the_books_balance_and_no_limit_is_passed(steps in prop::collection::vec(step(), 0..120)) {
        let mut books = Books::new();
        let mut connections = Vec::new();
        let mut requests = Vec::new();
        for step in steps {
            match step {
                Step::Open(last) => connections.push(books.open(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)))),
                Step::Wait(millis) => books.now += Duration::from_millis(millis),
                Step::Close(who) => {
                    if let Some(id) = connections.get(who) {
                        books.ledger.close(*id);
                    }
                }
                Step::Begin(who, bytes) => {
                    if let Some(id) = connections.get(who)
                        && let Some(request) = books.begin(*id, bytes)
                    {
                        requests.push((*id, request));
                    }
                }
                Step::Reserve(who, bytes) => {
                    if let Some((connection, request)) = requests.get(who) {
                        books.reserve(*connection, *request, bytes);
                    }
                }
                Step::Release(who) => {
                    if let Some((connection, request)) = requests.get(who) {
                        books.ledger.release(*connection, *request);
                    }
                }
                Step::End(who) => {
                    if let Some((connection, request)) = requests.get(who) {
                        books.ledger.end(*connection, *request);
                    }
                }
            }
            assert_balanced(&books.ledger);
        }
    }
}

//! Two leaders, API servers that learn late, pods that learn later, crashes and users who break things, in any order:
//! no pod may ever serve a pair that an API server does not trust, and without further faults everything comes to
//! rest.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::*;
use super::{RULES, at, bundle};

const ENTRIES: usize = 2;
/// In the model's seconds; less than the settling time.
const API_SERVER_LAG: u64 = 9;

type Ca = u8;

#[derive(Clone, Debug)]
struct Stored {
    version: u32,
    /// `None` for garbage.
    current: Option<Ca>,
    next: Option<Ca>,
    asked: bool,
}

/// What a leader knows, and the write it is about to make.
#[derive(Clone, Debug, Default)]
struct Leader {
    bundles: Unchanged<u32>,
    served: Unchanged<u32>,
    pending: Option<(Decision, u32, Option<u32>)>,
}

#[derive(Clone, Debug)]
struct World {
    start: Instant,
    second: u64,
    made: Ca,
    versions: u32,
    secret: Option<Stored>,
    /// The webhook configuration: version, when it was written, and a bundle for each entry.
    webhooks: (u32, u64, Vec<BTreeSet<Ca>>),
    /// The bundles that each API server knows.
    api_servers: Vec<Vec<BTreeSet<Ca>>>,
    /// What each pod serves.
    pods: Vec<Ca>,
    leaders: Vec<Leader>,
}

#[derive(Clone, Debug)]
enum Move {
    /// A leader reads and decides.
    Look(usize),
    /// It writes what it decided, however long ago.
    Write(usize),
    Crash(usize),
    ApiServerLearns(usize),
    PodLearns(usize),
    PodRestarts(usize),
    Wait(u64),
    Ask,
    /// A user overwrites the pair with garbage.
    Spoil,
    /// A user deletes the Secret.
    Delete,
}

impl World {
    /// A rotation is just over.
    fn resting() -> Self {
        let trusted = vec![BTreeSet::from([1]); ENTRIES];
        Self {
            start: Instant::now(),
            second: 0,
            made: 1,
            versions: 2,
            secret: Some(Stored {
                version: 1,
                current: Some(1),
                next: None,
                asked: false,
            }),
            webhooks: (2, 0, trusted.clone()),
            api_servers: vec![trusted; 2],
            pods: vec![1; 2],
            leaders: vec![Leader::default(); 2],
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_secs(self.second)
    }

    fn version(&mut self) -> u32 {
        self.versions += 1;
        self.versions
    }

    fn look(&mut self, index: usize) {
        let now = self.now();
        let (webhooks, _, bundles) = self.webhooks.clone();
        let secret = self.secret.clone();
        let leader = &mut self.leaders[index];
        let pair = |ca: Option<Ca>| {
            let pair = |ca| Pair {
                trust: bundle(&[ca]),
                not_after: at(1_000_000),
            };
            ca.map(pair).ok_or(Flaw::Missing("tls.crt"))
        };
        let seen = Observed {
            current: pair(secret.as_ref().and_then(|s| s.current)),
            next: secret.as_ref().and_then(|s| s.next).map(|ca| pair(Some(ca))),
            asked: secret.as_ref().is_some_and(|s| s.asked),
            bundles: bundles
                .iter()
                .map(|cas| bundle(&cas.iter().copied().collect::<Vec<_>>()))
                .collect(),
            unchanged_for: leader.bundles.note(webhooks, now),
            served_for: secret.as_ref().and_then(|s| leader.served.lasts(&s.version, now)),
        };
        let step = decide(&seen, at(0), &RULES);
        if let (Decision::Probe, Some(secret)) = (&step, &secret) {
            let serve = self.pods.iter().all(|served| Some(*served) == secret.current);
            if serve {
                leader.served.note(secret.version, now);
            } else {
                leader.served.forget();
            }
        }
        leader.pending = Some((step, webhooks, secret.map(|s| s.version)));
    }

    fn write(&mut self, index: usize) {
        let Some((step, webhooks, secret)) = self.leaders[index].pending.take() else {
            return;
        };
        let is_same_secret = self.secret.as_ref().map(|s| s.version) == secret;
        match step {
            Decision::Issue { overlap } if is_same_secret => {
                self.made += 1;
                let old = self.secret.as_ref().and_then(|s| s.current);
                let (current, next) = if overlap {
                    (old, Some(self.made))
                } else {
                    (Some(self.made), None)
                };
                self.secret = Some(Stored {
                    version: self.version(),
                    current,
                    next,
                    asked: false,
                });
            }
            Decision::Promote if is_same_secret => {
                let version = self.version();
                if let Some(secret) = &mut self.secret {
                    secret.version = version;
                    secret.current = secret.next.take();
                }
            }
            Decision::Publish(bundle) if self.webhooks.0 == webhooks => {
                let cas: BTreeSet<Ca> = (0..=self.made)
                    .filter(|ca| bundle.contains(&super::bundle(&[*ca])))
                    .collect();
                self.webhooks = (self.version(), self.second, vec![cas; ENTRIES]);
            }
            _ => {}
        }
    }

    fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.second += 1;
            if self.second - self.webhooks.1 >= API_SERVER_LAG {
                self.api_servers.fill(self.webhooks.2.clone());
            }
        }
    }

    fn learn(&mut self, pod: usize) {
        // Garbage, or no Secret, leaves the last good pair in service.
        if let Some(ca) = self.secret.as_ref().and_then(|s| s.current) {
            self.pods[pod] = ca;
        }
    }

    fn make(&mut self, a_move: &Move) {
        match *a_move {
            Move::Look(leader) => self.look(leader),
            Move::Write(leader) => self.write(leader),
            Move::Crash(leader) => self.leaders[leader] = Leader::default(),
            Move::ApiServerLearns(index) => self.api_servers[index].clone_from(&self.webhooks.2),
            Move::PodLearns(pod) | Move::PodRestarts(pod) => self.learn(pod),
            Move::Wait(seconds) => self.wait(seconds),
            Move::Ask => {
                let version = self.version();
                if let Some(secret) = &mut self.secret {
                    (secret.asked, secret.version) = (true, version);
                }
            }
            Move::Spoil => {
                let version = self.version();
                if let Some(secret) = &mut self.secret {
                    (secret.current, secret.version) = (None, version);
                }
            }
            Move::Delete => self.secret = None,
        }
    }

    /// Every API server trusts every pod, in every entry.
    fn loses_no_create(&self) -> bool {
        let mut bundles = self.api_servers.iter().flatten();
        bundles.all(|bundle| self.pods.iter().all(|served| bundle.contains(served)))
    }

    fn is_at_rest(&self) -> bool {
        self.secret.as_ref().is_some_and(|secret| {
            let Some(current) = secret.current else {
                return false;
            };
            let only = |bundles: &[BTreeSet<Ca>]| bundles.iter().all(|b| *b == BTreeSet::from([current]));
            secret.next.is_none()
                && !secret.asked
                && only(&self.webhooks.2)
                && self.pods.iter().all(|served| *served == current)
        })
    }
}

fn a_move() -> impl Strategy<Value = Move> {
    let two = 0..2_usize;
    prop_oneof![
        8 => two.clone().prop_map(Move::Look),
        8 => two.clone().prop_map(Move::Write),
        1 => two.clone().prop_map(Move::Crash),
        2 => two.clone().prop_map(Move::ApiServerLearns),
        4 => two.clone().prop_map(Move::PodLearns),
        1 => two.prop_map(Move::PodRestarts),
        6 => (1..12_u64).prop_map(Move::Wait),
        1 => Just(Move::Ask),
        1 => Just(Move::Spoil),
        1 => Just(Move::Delete),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_create_is_lost_and_all_comes_to_rest(moves in vec(a_move(), 0..150)) {
        let mut world = World::resting();
        for a_move in &moves {
            world.make(a_move);
            prop_assert!(world.loses_no_create(), "after {a_move:?}: {world:?}");
        }
        for _ in 0..100 {
            for leader in 0..2 {
                world.look(leader);
                world.write(leader);
                world.learn(leader);
            }
            world.wait(1);
            prop_assert!(world.loses_no_create(), "at the end: {world:?}");
        }
        prop_assert!(world.is_at_rest(), "{world:?}");
    }
}

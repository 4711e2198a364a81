//! The rules one by one, and a model that puts them to work.

mod model;

use super::*;

pub(super) const RULES: Rules = Rules {
    lifetime: Duration::from_secs(1000),
    renew_before: Duration::from_secs(100),
    settle: Duration::from_secs(10),
};

/// A bundle of CAs that are just numbers.
pub(super) fn bundle(cas: &[u8]) -> Bundle {
    cas.iter().map(|ca| vec![*ca]).collect()
}

fn pair(ca: u8, end: i64) -> Pair {
    Pair {
        trust: bundle(&[ca]),
        not_after: at(end),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn flaw() -> Flaw {
    Flaw::Missing("tls.crt")
}

/// Pair 1 is served and trusted, at second 0.
fn resting() -> Observed {
    Observed {
        current: Ok(pair(1, 1000)),
        next: None,
        asked: false,
        bundles: vec![bundle(&[1]); 3],
        unchanged_for: Duration::ZERO,
        served_for: None,
    }
}

fn step(seen: &Observed) -> Decision {
    decide(seen, at(0), &RULES)
}

#[test]
fn nothing_is_done_without_need() {
    assert_eq!(step(&resting()), Decision::Rest);
}

#[test]
fn a_pair_is_made_when_it_is_due_asked_for_or_unusable() {
    let overlapping = Decision::Issue { overlap: true };
    assert_eq!(decide(&resting(), at(899), &RULES), Decision::Rest);
    assert_eq!(decide(&resting(), at(900), &RULES), overlapping);
    assert_eq!(
        step(&Observed {
            asked: true,
            ..resting()
        }),
        overlapping
    );
    let garbage = Observed {
        current: Err(flaw()),
        ..resting()
    };
    assert_eq!(step(&garbage), overlapping);
    let half_made = Observed {
        next: Some(Err(flaw())),
        ..resting()
    };
    assert_eq!(step(&half_made), overlapping);
    let nothing = Observed {
        bundles: vec![Bundle::default(); 3],
        ..garbage
    };
    assert_eq!(step(&nothing), Decision::Issue { overlap: false });
}

#[test]
fn a_pair_in_the_making_is_not_made_twice() {
    let seen = Observed {
        current: Err(flaw()),
        next: Some(Ok(pair(2, 2000))),
        asked: true,
        ..resting()
    };
    assert_eq!(step(&seen), Decision::Publish(bundle(&[1, 2])));
}

#[test]
fn trust_is_added_to_every_entry_before_a_pair_is_served() {
    let mut seen = Observed {
        next: Some(Ok(pair(2, 2000))),
        bundles: vec![bundle(&[1, 2]), bundle(&[7]), Bundle::default()],
        unchanged_for: RULES.settle,
        ..resting()
    };
    assert_eq!(step(&seen), Decision::Publish(bundle(&[1, 2, 7])));
    seen.bundles = vec![bundle(&[1, 2, 7]); 3];
    assert_eq!(step(&seen), Decision::Promote);
    seen.unchanged_for = RULES.settle.checked_sub(Duration::from_millis(1)).unwrap();
    assert_eq!(step(&seen), Decision::Settle);
}

#[test]
fn trust_is_taken_back_when_every_pod_has_served_the_new_pair_for_a_while() {
    let mut seen = Observed {
        bundles: vec![bundle(&[0, 1]), bundle(&[1]), bundle(&[0, 1])],
        ..resting()
    };
    assert_eq!(step(&seen), Decision::Probe);
    seen.served_for = Some(Duration::ZERO);
    assert_eq!(step(&seen), Decision::Probe);
    seen.served_for = Some(RULES.settle);
    assert_eq!(step(&seen), Decision::Publish(bundle(&[1])));
}

#[test]
fn a_lost_bundle_is_written_again() {
    let seen = Observed {
        bundles: vec![Bundle::default(), bundle(&[1]), bundle(&[1])],
        ..resting()
    };
    assert_eq!(step(&seen), Decision::Publish(bundle(&[1])));
}

#[test]
fn durations_count_from_the_last_change() {
    let start = Instant::now();
    let later = |seconds| start + Duration::from_secs(seconds);
    let mut version = Unchanged::default();
    assert_eq!(version.lasts(&"1", start), None);
    assert_eq!(version.note("1", start), Duration::ZERO);
    assert_eq!(version.note("1", later(3)), Duration::from_secs(3));
    assert_eq!(version.lasts(&"1", later(4)), Some(Duration::from_secs(4)));
    assert_eq!(version.lasts(&"2", later(4)), None);
    assert_eq!(version.note("2", later(5)), Duration::ZERO);
    version.forget();
    assert_eq!(version.lasts(&"2", later(6)), None);
}

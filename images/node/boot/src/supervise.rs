//! When containerd and the kubelet are started, restarted and stopped, as a pure state machine.

use std::time::Duration;

use crate::console::Phase;

/// How often in a row a program may end early before the machine is switched off.
pub const MOST_FAILURES: u32 = 5;
/// A program that ran this long did start: its earlier failures are forgotten.
const LONG_ENOUGH: Duration = Duration::from_secs(60);
/// Wait before the first restart; doubled with each failure in a row.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// How long a program may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(10);

/// A supervised program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// The container runtime.
    Containerd,
    /// The kubelet, which needs it.
    Kubelet,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The guest is ready to start programs.
    Ready,
    /// containerd answers.
    ContainerdAnswers,
    /// The client certificate is there.
    ClientCertificate,
    /// The serving certificate is there.
    ServingCertificate,
    /// A program ended, or could not be started.
    Ended {
        /// Which.
        unit: Unit,
        /// How long it ran.
        ran: Duration,
    },
    /// The wait that [`Action::Wake`] asked for is over.
    Woken(Alarm),
    /// Someone pressed the power button.
    PowerButton,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a program.
    Start(Unit),
    /// Ask a program to end.
    Stop(Unit),
    /// End a program.
    Kill(Unit),
    /// Send [`Event::Woken`] after this time.
    Wake(Alarm, Duration),
    /// Remove the token and everything that holds it.
    ForgetToken,
    /// Give a pod on the guest's own network its address.
    TakeAddress,
    /// Say that a phase is reached.
    Report(Phase),
    /// Say that a program ended too often.
    ReportFailures(Unit),
    /// Switch the machine off.
    PowerOff,
}

/// What a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// Starting a program again.
    Restart(Unit),
    /// A program that was asked to end has had its time.
    GraceOver(Unit),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Running {
    /// Not started yet.
    #[default]
    No,
    Yes,
    /// Between two starts.
    Waiting,
}

#[derive(Clone, Copy, Debug, Default)]
struct Program {
    running: Running,
    failures: u32,
}

/// What is known of the programs.
#[derive(Debug, Default)]
pub struct Supervisor {
    containerd: Program,
    kubelet: Program,
    ending: bool,
}

impl Supervisor {
    /// What to do now, in this order.
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Ready => self.start(Unit::Containerd),
            Event::ContainerdAnswers if self.ending => Vec::new(),
            Event::ContainerdAnswers => {
                let mut actions = vec![Action::Report(Phase::Containerd)];
                actions.extend(self.start(Unit::Kubelet));
                actions.push(Action::Report(Phase::Kubelet));
                actions
            }
            Event::ClientCertificate => vec![Action::ForgetToken, Action::Report(Phase::Certificate)],
            Event::ServingCertificate => vec![Action::TakeAddress, Action::Report(Phase::Serving)],
            Event::Ended { unit, ran } => self.ended(unit, ran),
            Event::Woken(Alarm::Restart(unit)) if self.program(unit).running == Running::Waiting => {
                self.start(unit)
            }
            Event::Woken(Alarm::GraceOver(unit)) if self.program(unit).running == Running::Yes => {
                vec![Action::Kill(unit)]
            }
            Event::Woken(_) => Vec::new(),
            Event::PowerButton => self.end(),
        }
    }

    fn program(&mut self, unit: Unit) -> &mut Program {
        match unit {
            Unit::Containerd => &mut self.containerd,
            Unit::Kubelet => &mut self.kubelet,
        }
    }

    fn start(&mut self, unit: Unit) -> Vec<Action> {
        self.program(unit).running = Running::Yes;
        vec![Action::Start(unit)]
    }

    fn ended(&mut self, unit: Unit, ran: Duration) -> Vec<Action> {
        let ending = self.ending;
        let program = self.program(unit);
        if ending {
            program.running = Running::No;
            return self.stop_next();
        }
        program.running = Running::Waiting;
        program.failures = if ran < LONG_ENOUGH {
            program.failures + 1
        } else {
            1
        };
        if program.failures < MOST_FAILURES {
            let wait = FIRST_WAIT * 2u32.pow(program.failures - 1);
            return vec![Action::Wake(Alarm::Restart(unit), wait)];
        }
        program.running = Running::No;
        let mut actions = vec![Action::ReportFailures(unit)];
        actions.extend(self.end());
        actions
    }

    fn end(&mut self) -> Vec<Action> {
        if self.ending {
            return Vec::new();
        }
        self.ending = true;
        let mut actions = vec![Action::Report(Phase::PowerOff)];
        for program in [&mut self.containerd, &mut self.kubelet] {
            if program.running == Running::Waiting {
                program.running = Running::No;
            }
        }
        actions.extend(self.stop_next());
        actions
    }

    /// The kubelet first: it still says how the pod ended, and needs containerd to know.
    fn stop_next(&mut self) -> Vec<Action> {
        let next = [Unit::Kubelet, Unit::Containerd]
            .into_iter()
            .find(|&unit| self.program(unit).running == Running::Yes);
        match next {
            Some(unit) => vec![Action::Stop(unit), Action::Wake(Alarm::GraceOver(unit), GRACE)],
            None => vec![Action::PowerOff],
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    fn ended(unit: Unit, ran: Duration) -> Event {
        Event::Ended { unit, ran }
    }

    fn started() -> Supervisor {
        let mut supervisor = Supervisor::default();
        assert_eq!(supervisor.on(Event::Ready), [Action::Start(Unit::Containerd)]);
        let expected = [
            Action::Report(Phase::Containerd),
            Action::Start(Unit::Kubelet),
            Action::Report(Phase::Kubelet),
        ];
        assert_eq!(supervisor.on(Event::ContainerdAnswers), expected);
        supervisor
    }

    #[test]
    fn the_token_is_gone_before_the_certificate_is_reported() {
        let expected = [Action::ForgetToken, Action::Report(Phase::Certificate)];
        assert_eq!(started().on(Event::ClientCertificate), expected);
    }

    #[test]
    fn a_program_that_ends_is_started_again_ever_later() {
        let mut supervisor = started();
        let alarm = Alarm::Restart(Unit::Kubelet);
        for millis in [500, 1000, 2000, 4000] {
            let wait = Action::Wake(alarm, Duration::from_millis(millis));
            assert_eq!(supervisor.on(ended(Unit::Kubelet, SOON)), [wait]);
            assert_eq!(supervisor.on(Event::Woken(alarm)), [Action::Start(Unit::Kubelet)]);
        }
        let actions = supervisor.on(ended(Unit::Kubelet, SOON));
        assert_eq!(actions[0], Action::ReportFailures(Unit::Kubelet));
        assert_eq!(actions[1], Action::Report(Phase::PowerOff));
        assert_eq!(actions[2], Action::Stop(Unit::Containerd));
        assert_eq!(supervisor.on(ended(Unit::Containerd, SOON)), [Action::PowerOff]);
    }

    #[test]
    fn a_program_that_ran_long_has_its_failures_forgotten() {
        let mut supervisor = started();
        for _ in 0..3 * MOST_FAILURES {
            let actions = supervisor.on(ended(Unit::Containerd, LONG_ENOUGH));
            assert_eq!(
                actions,
                [Action::Wake(Alarm::Restart(Unit::Containerd), FIRST_WAIT)]
            );
            supervisor.on(Event::Woken(Alarm::Restart(Unit::Containerd)));
        }
    }

    #[test]
    fn the_power_button_stops_the_kubelet_then_containerd_once() {
        let mut supervisor = started();
        let actions = supervisor.on(Event::PowerButton);
        let grace = Action::Wake(Alarm::GraceOver(Unit::Kubelet), GRACE);
        assert_eq!(
            actions,
            [
                Action::Report(Phase::PowerOff),
                Action::Stop(Unit::Kubelet),
                grace
            ]
        );
        assert_eq!(supervisor.on(Event::PowerButton), []);
        let over = Event::Woken(Alarm::GraceOver(Unit::Kubelet));
        assert_eq!(supervisor.on(over), [Action::Kill(Unit::Kubelet)]);
        let actions = supervisor.on(ended(Unit::Kubelet, SOON));
        assert_eq!(actions[0], Action::Stop(Unit::Containerd));
        assert_eq!(supervisor.on(ended(Unit::Containerd, SOON)), [Action::PowerOff]);
    }

    #[test]
    fn nothing_is_started_once_the_machine_goes_off() {
        let mut supervisor = Supervisor::default();
        supervisor.on(Event::Ready);
        supervisor.on(Event::PowerButton);
        assert_eq!(supervisor.on(Event::ContainerdAnswers), []);

        let mut supervisor = started();
        supervisor.on(ended(Unit::Kubelet, SOON));
        supervisor.on(Event::PowerButton);
        assert_eq!(supervisor.on(Event::Woken(Alarm::Restart(Unit::Kubelet))), []);
    }

    /// Events from outside: programs end, buttons are pressed, and every wait that was asked for ends some time.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        End(Unit, u64),
        Wake(usize),
        Press,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let unit = prop_oneof![Just(Unit::Containerd), Just(Unit::Kubelet)];
        let step = prop_oneof![
            6 => (unit, 0u64..120).prop_map(|(unit, seconds)| Step::End(unit, seconds)),
            6 => any::<usize>().prop_map(Step::Wake),
            1 => Just(Step::Press),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        /// Whatever happens: no program is started twice, stopped when it does not run, or started after the end
        /// began; and the machine goes off only when neither runs.
        #[test]
        fn programs_and_power_agree(steps in steps()) {
            let mut supervisor = Supervisor::default();
            let mut running: Vec<Unit> = Vec::new();
            let mut alarms = Vec::new();
            let mut ending = false;
            let mut pending = supervisor.on(Event::Ready);
            pending.extend(supervisor.on(Event::ContainerdAnswers));
            for step in steps {
                for action in pending.drain(..) {
                    match action {
                        Action::Start(unit) => {
                            prop_assert!(!ending && !running.contains(&unit));
                            running.push(unit);
                        }
                        Action::Stop(unit) | Action::Kill(unit) => prop_assert!(running.contains(&unit)),
                        Action::Wake(alarm, _) => alarms.push(alarm),
                        Action::Report(Phase::PowerOff) => ending = true,
                        Action::PowerOff => prop_assert!(ending && running.is_empty()),
                        _ => {}
                    }
                }
                match step {
                    Step::End(unit, seconds) if running.contains(&unit) => {
                        running.retain(|other| *other != unit);
                        pending = supervisor.on(ended(unit, Duration::from_secs(seconds)));
                    }
                    Step::Wake(index) if !alarms.is_empty() => {
                        let alarm = alarms.remove(index % alarms.len());
                        pending = supervisor.on(Event::Woken(alarm));
                    }
                    Step::Press => pending = supervisor.on(Event::PowerButton),
                    _ => {}
                }
            }
        }
    }
}

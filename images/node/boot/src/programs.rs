//! The shell around the supervisor: starts, watches and ends programs, until the machine is to go off.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use maroonedpods_common::join_info::JoinInfo;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;

use crate::supervise::{Action, Alarm, Event, MOST_FAILURES, Supervisor, Unit};
use crate::{cni, console, files, kubelet, paths, power};

/// How often something is looked for that the programs make.
const POLL: Duration = Duration::from_millis(50);

enum Message {
    Event(Event),
    Reaped(Pid, WaitStatus),
}

struct Child {
    pid: Pid,
    since: Instant,
}

struct Programs<'a> {
    info: &'a JoinInfo,
    children: BTreeMap<Unit, Child>,
    /// How each ended last.
    ends: BTreeMap<Unit, WaitStatus>,
    sender: Sender<Message>,
}

/// Runs containerd and the kubelet. Returns when the machine is to be switched off.
pub fn run(info: &JoinInfo) -> Result<()> {
    let (sender, receiver) = mpsc::channel();
    let button = sender.clone();
    power::watch(move || {
        let _ = button.send(Message::Event(Event::PowerButton));
    })?;
    let mut programs = Programs {
        info,
        children: BTreeMap::new(),
        ends: BTreeMap::new(),
        sender: sender.clone(),
    };
    let mut supervisor = Supervisor::default();
    let reaper = sender.clone();
    thread::spawn(move || reap(&reaper));
    let watcher = sender.clone();
    thread::spawn(move || watch(&watcher));
    sender.send(Message::Event(Event::Ready))?;
    loop {
        let event = match receiver.recv()? {
            Message::Event(event) => event,
            Message::Reaped(pid, status) => match programs.reaped(pid, status) {
                Some(event) => event,
                None => continue,
            },
        };
        for action in supervisor.on(event) {
            if action == Action::PowerOff {
                return Ok(());
            }
            if let Err(error) = programs.act(action) {
                console::error(&error);
            }
        }
    }
}

impl Programs<'_> {
    fn act(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Start(unit) => self.start(unit),
            Action::Stop(unit) => self.signal(unit, Signal::SIGTERM),
            Action::Kill(unit) => self.signal(unit, Signal::SIGKILL),
            Action::Wake(alarm, after) => {
                if let Alarm::Restart(unit) = alarm {
                    let end = self
                        .ends
                        .remove(&unit)
                        .map_or_else(|| "it was not started".to_owned(), described);
                    console::error(&anyhow!(
                        "{} ended ({end}); it is started again in {after:?}",
                        name(unit)
                    ));
                }
                let sender = self.sender.clone();
                thread::spawn(move || {
                    thread::sleep(after);
                    let _ = sender.send(Message::Event(Event::Woken(alarm)));
                });
                Ok(())
            }
            Action::ForgetToken => files::forget_token(Path::new("/"), self.info),
            Action::TakeAddress if self.info.host_network => cni::put_on_loopback().map(drop),
            Action::TakeAddress | Action::PowerOff => Ok(()),
            Action::Report(phase) => {
                console::reached(phase);
                Ok(())
            }
            Action::ReportFailures(unit) => Err(anyhow!(
                "{} ended {MOST_FAILURES} times in a row: its output above says why",
                name(unit)
            )),
        }
    }

    fn start(&mut self, unit: Unit) -> Result<()> {
        let mut command = Command::new(name(unit));
        match unit {
            Unit::Containerd => command.args(["--log-level", "warn"]),
            Unit::Kubelet => command.args(kubelet::arguments(self.info)),
        };
        let since = Instant::now();
        let started = command
            .env("PATH", paths::PROGRAM_FOLDERS)
            .current_dir("/")
            .spawn();
        match started.map(|child| i32::try_from(child.id())) {
            Ok(pid) => {
                let pid = Pid::from_raw(pid.context("a process has an impossible id")?);
                self.children.insert(unit, Child { pid, since });
                Ok(())
            }
            Err(error) => {
                self.sender.send(Message::Event(Event::Ended {
                    unit,
                    ran: Duration::ZERO,
                }))?;
                Err(error).with_context(|| format!("cannot start {}, which the image must have", name(unit)))
            }
        }
    }

    fn signal(&self, unit: Unit, signal: Signal) -> Result<()> {
        match self.children.get(&unit) {
            Some(child) => kill(child.pid, signal).with_context(|| format!("cannot end {}", name(unit))),
            None => Ok(()),
        }
    }

    /// What the end of a process means; nothing, where it is an orphan that the kernel gave us as its parent.
    fn reaped(&mut self, pid: Pid, status: WaitStatus) -> Option<Event> {
        let unit = self
            .children
            .iter()
            .find_map(|(&unit, child)| (child.pid == pid).then_some(unit))?;
        let ran = self.children.remove(&unit)?.since.elapsed();
        self.ends.insert(unit, status);
        Some(Event::Ended { unit, ran })
    }
}

/// Reaps every process that ends: ours, and those whose parents are gone.
fn reap(sender: &Sender<Message>) {
    loop {
        let message = match wait() {
            Ok(status) => status.pid().map(|pid| Message::Reaped(pid, status)),
            Err(Errno::ECHILD) => {
                thread::sleep(POLL);
                None
            }
            Err(_) => None,
        };
        if message.is_some_and(|message| sender.send(message).is_err()) {
            return;
        }
    }
}

/// Says what the programs have made, in the order in which they make it.
fn watch(sender: &Sender<Message>) {
    let steps: [(fn() -> bool, Event); 3] = [
        (containerd_answers, Event::ContainerdAnswers),
        (
            || Path::new(paths::CLIENT_CERTIFICATE).exists(),
            Event::ClientCertificate,
        ),
        (
            || Path::new(paths::SERVING_CERTIFICATE).exists(),
            Event::ServingCertificate,
        ),
    ];
    for (is_there, event) in steps {
        while !is_there() {
            thread::sleep(POLL);
        }
        if sender.send(Message::Event(event)).is_err() {
            return;
        }
    }
}

/// Whether containerd takes connections.
#[must_use]
pub fn containerd_answers() -> bool {
    UnixStream::connect(paths::CONTAINERD_SOCKET).is_ok()
}

fn described(end: WaitStatus) -> String {
    match end {
        WaitStatus::Exited(_, status) => format!("exit status {status}"),
        WaitStatus::Signaled(_, signal, _) => signal.to_string(),
        other => format!("{other:?}"),
    }
}

fn name(unit: Unit) -> &'static str {
    match unit {
        Unit::Containerd => "containerd",
        Unit::Kubelet => "kubelet",
    }
}

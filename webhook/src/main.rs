//! Wires the command line, the log and the signals to the library.

use std::io::{IsTerminal, stderr};
use std::process::ExitCode;

use clap::Parser;
use maroonedpods_webhook::args::{Cli, LogArgs, LogFormat};
use tokio::signal::unix::{SignalKind, signal};

// One thread: an answer takes microseconds, and a second thread costs more in hand-overs than it brings.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Cli { server, log } = Cli::parse();
    start_log(log);
    let (mut terminate, mut interrupt) =
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "cannot listen for signals");
                return ExitCode::FAILURE;
            }
        };
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    match maroonedpods_webhook::run(server, stop).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn start_log(LogArgs { format, level }: LogArgs) {
    let log = tracing_subscriber::fmt().with_max_level(level);
    let log = log.with_writer(stderr).with_ansi(stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

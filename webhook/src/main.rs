//! Wires the command line, the log and the signals to the library.

use std::process::ExitCode;

use clap::Parser;
use maroonedpods_server::program::stop_signal;
use maroonedpods_webhook::args::Cli;

// One thread: an answer takes microseconds, and a second thread costs more in hand-overs than it brings.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Cli { server, log } = Cli::parse();
    log.start();
    let stop = match stop_signal() {
        Ok(stop) => stop,
        Err(error) => {
            tracing::error!(%error, "cannot listen for signals");
            return ExitCode::FAILURE;
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

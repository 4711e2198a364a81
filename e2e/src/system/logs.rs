//! Logs of a test run.

use tracing_subscriber::EnvFilter;

/// Shows the logs of everything in this process that `RUST_LOG` names, such as `maroonedpods_reconciler=debug`;
/// none without it. May be called again.
pub fn logs() {
    let shown = tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::builder().parse_lossy(std::env::var("RUST_LOG").unwrap_or_else(|_| "off".to_owned())),
        )
        .with_test_writer()
        .try_init();
    // Fails if an earlier test of this process has set the logger, which is fine.
    drop(shown);
}

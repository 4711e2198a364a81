//! Logs of a test run, and of the harness's own programs.

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

/// Shows errors of everything in this process on stderr, or what `RUST_LOG` names. For programs: call it once.
pub fn errors() {
    let shown = std::env::var("RUST_LOG").unwrap_or_else(|_| "error,kube_client=off".to_owned());
    tracing_subscriber::fmt()
        .with_env_filter(shown)
        .with_writer(std::io::stderr)
        .init();
}

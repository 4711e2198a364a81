//! Runs tests on clusters, or reports them as skipped.

use std::any;
use std::fs::File;
use std::panic;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::Result;
use tokio::runtime::{Builder, Runtime};

use super::requirements::{self, missing_rights};
use super::{Cluster, ClusterOptions, namespaces};
use crate::system::skipped::leave_out;

/// Runs `test` with a cluster of its own, on a runtime whose threads are on the cluster's network; threads and
/// programs that it starts are there, too. A panic in it is a panic here.
///
/// Without the right to make namespaces the test is skipped: its name and the reason are printed on stderr, and in
/// the last line of `hack/test`. Blocks.
///
/// # Errors
/// When the cluster does not start, or a program that it needs is missing and cannot be installed.
pub fn with_cluster<F>(options: ClusterOptions, test: F) -> Result<()>
where
    F: AsyncFnOnce(Cluster) + Send,
{
    let name = name_of::<F>();
    if is_left_out(&name) {
        return Ok(());
    }
    on_a_cluster(name, options, async |cluster| {
        test(cluster).await;
        Ok(())
    })
}

/// [`with_cluster`] for programs: it needs the rights that [`missing_rights`] is about, and `work` may fail.
///
/// # Errors
/// As for [`with_cluster`], and those of `work`.
pub fn on_cluster<T, F>(options: ClusterOptions, work: F) -> Result<T>
where
    T: Send,
    F: AsyncFnOnce(Cluster) -> Result<T> + Send,
{
    on_a_cluster("cluster".to_owned(), options, work)
}

fn on_a_cluster<T, F>(thread: String, options: ClusterOptions, work: F) -> Result<T>
where
    T: Send,
    F: AsyncFnOnce(Cluster) -> Result<T> + Send,
{
    let programs = requirements::provide()?;
    on_a_thread(thread, move || {
        namespaces::new_network()?;
        let runtime = Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async { work(Cluster::start(&options, &programs).await?).await })
    })
}

/// [`with_cluster`], with the one cluster of this process: two nodes, started by the first test that asks, gone with
/// the process. Tests that share it keep to namespaces of their own.
///
/// # Errors
/// As for [`with_cluster`].
pub fn with_shared_cluster<F>(test: F) -> Result<()>
where
    F: AsyncFnOnce(&'static Cluster) + Send,
{
    let name = name_of::<F>();
    if is_left_out(&name) {
        return Ok(());
    }
    let shared = shared()?;
    on_a_thread(name, move || {
        namespaces::enter_network(&shared.network)?;
        let runtime = Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(test(&shared.cluster));
        Ok(())
    })
}

/// Installs and builds what nodes need, so that a test can take the machine's state before a cluster starts. Returns
/// false, and does nothing, without the right to run nodes. Blocks.
///
/// # Errors
/// When a program is missing and cannot be installed.
pub fn provide() -> Result<bool> {
    if missing_rights().is_some() {
        return Ok(false);
    }
    requirements::provide().map(|_| true)
}

struct Shared {
    cluster: Cluster,
    network: File,
    /// The cluster was started on it, so it lives as long.
    _runtime: Runtime,
}

fn shared() -> Result<&'static Shared> {
    static SHARED: Mutex<Option<&'static Shared>> = Mutex::new(None);
    // A panic of another test leaves this either empty or complete.
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(shared) = *shared {
        return Ok(shared);
    }
    let programs = requirements::provide()?;
    let new = on_a_thread("shared-cluster".to_owned(), move || {
        namespaces::new_network()?;
        let runtime = Builder::new_multi_thread().enable_all().build()?;
        let cluster = runtime.block_on(Cluster::start(&ClusterOptions::default(), &programs))?;
        Ok(Shared {
            cluster,
            network: namespaces::network()?,
            _runtime: runtime,
        })
    })?;
    Ok(shared.insert(Box::leak(Box::new(new))))
}

/// Runs `work` on a thread of its own, whose namespaces it may change. A panic there is a panic here.
fn on_a_thread<T: Send>(name: String, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let outcome = thread::scope(|scope| {
        let thread = thread::Builder::new().name(name).spawn_scoped(scope, work)?;
        Ok::<_, std::io::Error>(thread.join())
    })?;
    outcome.unwrap_or_else(|panic| panic::resume_unwind(panic))
}

fn is_left_out(test: &str) -> bool {
    let Some(reason) = missing_rights() else {
        return false;
    };
    leave_out(test, &reason);
    true
}

/// Name of the running test: the test runner calls the test's thread by it, unless it runs them one by one on its
/// main thread. Then that of the function that the closure is written in.
fn name_of<F>() -> String {
    match thread::current().name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => any::type_name::<F>().trim_end_matches("::{{closure}}").to_owned(),
    }
}

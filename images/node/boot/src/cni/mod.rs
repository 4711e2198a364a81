//! The pod network: a CNI plugin that gives the one pod of this guest the launcher's address.
//!
//! The second face of the boot program, run by the container runtime as `marooned-pass-through`
//! (CNI specification 1.0 and 1.1). One pod at a time: the first to come owns the network until its own `DEL`; a
//! second is refused, and a `DEL` for any other pod changes nothing.

mod address;
mod code;
mod failure;
mod owner;
mod reply;
mod request;
mod veth;

use std::env;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use failure::Failure;
use owner::Claim;

use request::{Attachment, Config, Request};

pub use address::put_on_loopback;

/// Name of the plugin's file, by which the boot program knows what it is to be.
pub const PROGRAM: &str = "marooned-pass-through";
/// How long `ADD` waits for the kubelet's serving certificate.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(10);

/// The network configuration list for the container runtime. `host_network` says that this guest's pod uses the
/// guest's network: every other pod is refused then.
#[must_use]
pub fn conflist(uplink: &str, kubelet_port: u16, host_network: bool) -> Value {
    json!({
        // The first is for runtimes that cannot choose.
        "cniVersion": request::VERSIONS[0],
        "cniVersions": request::VERSIONS,
        "name": "marooned",
        "plugins": [{
            "type": PROGRAM,
            "uplink": uplink,
            "kubeletPort": kubelet_port,
            "hostNetwork": host_network,
            "capabilities": {"portMappings": true},
        }],
    })
}

/// Does what the runtime asks by environment and standard input, and answers on standard output.
#[must_use]
pub fn run() -> ExitCode {
    let mut input = String::new();
    let read = io::stdin().read_to_string(&mut input);
    let answer = read
        .map_err(|error| Failure::new(code::IO, format!("standard input cannot be read: {error}")))
        .and_then(|_| Request::parse(|name| env::var(name).ok(), &input))
        .and_then(|request| serve(&request));
    let (text, status) = match answer {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(result)) => (result, ExitCode::SUCCESS),
        Err(failure) => (failure.json(request::version_of(&input)), ExitCode::FAILURE),
    };
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => status,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What is to be printed, if anything.
fn serve(request: &Request) -> Result<Option<Value>, Failure> {
    match request {
        Request::Version => Ok(Some(reply::versions())),
        Request::Add(attachment, config) => add(attachment, config).map(Some),
        Request::Del { container } => {
            del(container).map_err(Failure::of)?;
            Ok(None)
        }
        Request::Check(attachment) => check(attachment).map(|()| None),
        Request::Status(config) => status(config).map(|()| None),
        Request::Gc { valid } => {
            gc(valid).map_err(Failure::of)?;
            Ok(None)
        }
    }
}

fn add(attachment: &Attachment, config: &Config) -> Result<Value, Failure> {
    if config.host_network {
        let message = "this VM's pod uses the VM's own network: no other pod gets a network here";
        return Err(Failure::new(code::REFUSED, message));
    }
    // Before the claim: a failure here leaves nothing to undo.
    let address = address::wait_for(ADDRESS_PATIENCE).map_err(|error| Failure::later(&error))?;
    let host_ports = config.host_ports(address)?;
    match owner::claim(&attachment.container).map_err(Failure::of)? {
        Claim::Ours => {}
        Claim::Taken(owner) => {
            let message = format!("this VM's one pod network is in use by {owner}");
            return Err(Failure::new(code::REFUSED, message));
        }
    }
    match veth::build(attachment, config, address, &host_ports) {
        Ok(()) => Ok(reply::added(attachment, &config.cni_version, address)),
        Err(error) => {
            // Where undoing fails, the claim stays, and the runtime's `DEL` tries again.
            Err(Failure::of(match del(&attachment.container) {
                Ok(()) => error,
                Err(undo) => error.context(format!("and undoing it failed ({undo:#})")),
            }))
        }
    }
}

fn del(container: &str) -> Result<()> {
    if owner::current()?.as_deref() != Some(container) {
        return Ok(());
    }
    veth::remove()?;
    owner::release().context("giving the pod network back")
}

fn gc(valid: &[String]) -> Result<()> {
    match owner::current()? {
        Some(owner) if !valid.contains(&owner) => del(&owner),
        _ => Ok(()),
    }
}

fn check(attachment: &Attachment) -> Result<(), Failure> {
    let owner = owner::current().map_err(Failure::of)?;
    if owner.as_ref() != Some(&attachment.container) {
        let owner = owner.as_deref().unwrap_or("no pod");
        let message = format!("the pod network belongs to {owner}, not to this pod");
        return Err(Failure::new(code::BROKEN, message));
    }
    let address = address::read().map_err(Failure::of)?;
    veth::check(attachment, address).map_err(|error| Failure::new(code::BROKEN, format!("{error:#}")))
}

fn status(config: &Config) -> Result<(), Failure> {
    if config.host_network {
        return Ok(());
    }
    address::read()
        .map(|_| ())
        .map_err(|error| Failure::new(code::NOT_READY, format!("{error:#}")))
}

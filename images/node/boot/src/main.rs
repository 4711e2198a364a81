//! One static program under several names: the initrd's init, the root's init, `join`, and the CNI plugin.

use std::env;
use std::path::Path;
use std::process::{self, ExitCode};

use anyhow::Result;
use marooned_node_boot::{cni, console, init, initrd, join};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let first_process = process::id() == 1;
    match *arguments {
        [name, ..]
            if Path::new(name)
                .file_name()
                .is_some_and(|name| name == cni::PROGRAM) =>
        {
            cni::run()
        }
        ["/init", ..] if first_process => init::power_off(initrd::run().map(|_| ())),
        [_, ..] if first_process => init::power_off(init::run()),
        [_, "join"] => exit_code(join::run()),
        _ => {
            eprintln!(
                "usage: marooned-node-boot join (under another name: init of a guest, or {})",
                cni::PROGRAM
            );
            ExitCode::from(2)
        }
    }
}

fn exit_code(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::error(&error);
            ExitCode::FAILURE
        }
    }
}

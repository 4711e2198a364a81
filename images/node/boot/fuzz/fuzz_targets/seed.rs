//! `cargo +nightly fuzz run seed` in the folder above `fuzz`: no seed breaks the guest or its files.
#![no_main]

#[path = "../property.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|text: &str| property::holds(text));
